"""DDP and FSDP2 over gloo are one process with everybody's rows, and each reads what the others wrote."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from freeflow_lightning import FlowMap
from freeflow_lightning.flow import join, training_generator
from freeflow_lightning.module import CorrectionDraw, PredictionDraw
from nets.random_weights import tiny_sit
from tiny import same, shaken, trainer

STEPS, SIZE, ACCUMULATE, CLIP = 4, 8, 2, 0.5
