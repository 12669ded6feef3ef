"""Graph files: `graph.json`, versioned and readable, with every edge in it."""

from .reading import load as load
from .shape import FORMAT as FORMAT
from .shape import schema as schema
from .writing import save as save
from .writing import to_json as to_json
