"""Tables of published and customary names. Looking up a name imports its class, listing names imports nothing."""

from .diffusers_hints import HINTS as HINTS
from .diffusers_hints import hint_for_class as hint_for_class
from .names import LazyFunction as LazyFunction
from .names import Names as Names
from .names import UnknownName as UnknownName
from .names import closest as closest
from .names import counted as counted
from .names import did_you_mean as did_you_mean
from .names import with_article as with_article
from .tables import blocks as blocks
from .tables import changes as changes
from .tables import codecs as codecs
from .tables import find_block as find_block
from .tables import guiders as guiders
from .tables import hint_of as hint_of
from .tables import models as models
from .tables import native as native
from .tables import presets as presets
from .tables import prompt_rules as prompt_rules
from .tables import resolve as resolve
from .tables import schedulers as schedulers
from .tables import step_caches as step_caches
from .tables import table as table
from .text import printable as printable
from .text import printable_lines as printable_lines
from .transformers_types import transformers_types as transformers_types
