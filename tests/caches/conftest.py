"""The reference implementation, tiny models of both, and the embedded model, as other tests have them."""

from ..models.conftest import read_random as read_random
from ..models.conftest import reference as reference
from ..presets.conftest import emoji as emoji
