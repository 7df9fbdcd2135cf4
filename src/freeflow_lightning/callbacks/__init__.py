"""What users of the toolkit configure: schedules, averages, evaluation, pictures, health."""

from freeflow_lightning.callbacks.alpha import AlphaSchedule
from freeflow_lightning.callbacks.diversity import DiversityAlarm
from freeflow_lightning.callbacks.ema import StudentEMA
from freeflow_lightning.callbacks.ends import ValidationAtEnds
from freeflow_lightning.callbacks.fid import PeriodicFID
from freeflow_lightning.callbacks.final_correction import FinalCorrection
from freeflow_lightning.callbacks.health import HealthMonitor
from freeflow_lightning.callbacks.later_starts import LaterStarts
from freeflow_lightning.callbacks.post_hoc_ema import PostHocEMA
from freeflow_lightning.callbacks.requeue import Requeue
from freeflow_lightning.callbacks.samples import SampleGrid
from freeflow_lightning.callbacks.save_teacher import SaveTeacher
from freeflow_lightning.callbacks.spike_guard import SpikeGuard
from freeflow_lightning.callbacks.tangent import TangentWarmup
from freeflow_lightning.callbacks.trajectory import TrajectoryError
from freeflow_lightning.callbacks.warmup import ConfidentRegionWarmup
from freeflow_lightning.training.progress import DistillationProgress, NetworkSummary, ProgressLines

__all__ = [
    "AlphaSchedule",
    "ConfidentRegionWarmup",
    "DistillationProgress",
    "DiversityAlarm",
    "FinalCorrection",
    "HealthMonitor",
    "LaterStarts",
    "NetworkSummary",
    "PeriodicFID",
    "PostHocEMA",
    "ProgressLines",
    "Requeue",
    "SampleGrid",
    "SaveTeacher",
    "SpikeGuard",
    "StudentEMA",
    "TangentWarmup",
    "TrajectoryError",
    "ValidationAtEnds",
]
