"""Engines: other ways to run the heavy components of a graph. `pipe.optimize("openvino")` chooses one by its name."""

from .capture import Recorded as Recorded
from .capture import Recorder as Recorder
from .compiled import Compile as Compile
from .engine import Candidate as Candidate
from .engine import Engine as Engine
from .fused import Fused as Fused
from .graphs import Graphs as Graphs
from .graphs import Max as Max
from .openvino import OpenVINO as OpenVINO
from .optimize import Used as Used
from .optimize import report as report
from .programs import Report as Report
