"""Graph files: `graph.json`, a versioned form with all blocks, edges and sources of components."""

from .forms import FORMAT as FORMAT
from .forms import schema as schema
from .reading import load as load
from .writing import save as save
from .writing import to_json as to_json
