"""The training command in one of several processes, of which one is killed at a step.

torchrun … train_worker.py RANK STEP [option …]
"""

import os
import signal
import sys

import torch

from codellama import cli, train
from codellama.training import run as training_run
from codellama.training.trainer import Trainer

victim, step = map(int, sys.argv[1:3])
del sys.argv[1:3]
train_step = Trainer.train_step


def killed(trainer):
    if trainer.step == step and int(os.environ["RANK"]) == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(trainer)


torch.set_num_threads(1)
training_run.HELD_OUT_TOKENS = 1_024
Trainer.train_step = killed
cli.run(train.train)
