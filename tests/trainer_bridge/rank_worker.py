"""One rank of the two-process test: a step of the Trainer on its share of the rows; writes gradients and logs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.trainer_bridge.parts import Gradients, trainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = os.environ["LOCAL_RANK"] = os.environ["RANK"]
    folder = Path(sys.argv[1])
    watch = Gradients()
    made = trainer(folder / "out", callbacks=[watch], per_device_train_batch_size=2, gradient_accumulation_steps=2,
                   ddp_backend="gloo", num_train_epochs=2, learning_rate=0.0, max_grad_norm=0.05)
    watch.trainer = made
    if rank == "1":  # of a user's own losses, another start on each rank
        with torch.no_grad():
            for parameter in made.bundle.objective.parameters():
                parameter.zero_()
    made.train()
    logs = {name: torch.tensor(value) for name, value in made.state.log_history[1].items() if name.startswith("loss")}
    torch.save({"steps": watch.steps, "logs": logs, "wrapper": type(made.model_wrapped).__name__},
               folder / f"rank{rank}.pt")
    dist.destroy_process_group()
