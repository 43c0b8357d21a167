"""A search over learning rate and penalty for networks that are accurate and certify much, by Optuna.

pip install "lipguard[optuna]"; python examples/optuna_search.py [TRIALS]
"""

import sys

import optuna
import pytorch_lightning as pl
import torch
from penalty import Classifier
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

from lipguard import LipschitzMonitor


def trained(trial: optuna.Trial) -> tuple[float, float]:
    """(accuracy, certified accuracy within 0.25) of one network."""
    pl.seed_everything(0, verbose=False)
    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
    train, held_out = random_split(data, [0.8, 0.2], torch.Generator().manual_seed(0))
    monitor = LipschitzMonitor(every_n_epochs=5, epsilons=(0.25,))
    model = Classifier(monitor, trial.suggest_float("lam", 1e-3, 1.0, log=True))
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", callbacks=[monitor], enable_checkpointing=False,
                         logger=False, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(model, DataLoader(train, 64, shuffle=True), DataLoader(held_out, 360))
    return monitor.history[-1]["accuracy"], monitor.history[-1]["certified_accuracy_eps_0.25"]


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(trained, n_trials=int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    for best in sorted(study.best_trials, key=lambda t: t.values[0]):
        print(f"lam {best.params['lam']:.4f}: accuracy {best.values[0]:.3f}, certified {best.values[1]:.3f}")
