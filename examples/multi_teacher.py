"""One student of several teachers (or of one): text classifiers of the same labels, averaged.

    python examples/multi_teacher.py --teachers runs/a/student runs/b/student \
        --train train.csv --test test.csv --text text --label intent --output runs/of-two

The student starts from the first teacher's lower layers and learns from the mean of all teachers' logits, nothing else.
Prints the accuracy of each teacher, of their mean and of the student, as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import get_linear_schedule_with_warmup

from stillhouse import (
    DistillationConfig,
    EnsembleTeacher,
    LiveTeacher,
    MultiTeacherDistiller,
    StudentSpec,
    TrainingConfig,
    build_student,
)
from stillhouse.tasks import TextClassification, TextClassificationData
from stillhouse.tasks.answering import source_answers


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", nargs="+", required=True, help="folders of fine-tuned classifiers")
    parser.add_argument("--weights", nargs="+", type=float, help="how much each teacher counts")
    parser.add_argument("--average", choices=("logits", "probabilities"), default="logits")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--label-names", help="a file with the names, if labels are numbers")
    parser.add_argument("--limit", type=int, help="train on the first so many rows")
    parser.add_argument("--shape", default="T3")
    parser.add_argument("--temperature", type=float, default=8.0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True)
    return parser.parse_args()


def main() -> None:
    """Read the teachers, train, and print."""
    args = arguments()
    task = TextClassification(TextClassificationData.of(
        train=args.train, test=args.test, text=args.text, label=args.label, label_names=args.label_names,
        limit=args.limit))
    task.load()
    teachers = [task.load_model(path) for path in args.teachers]
    tokenizer = task.load_tokenizer(args.teachers[0])
    loader = task.loader(task.encode("train", tokenizer), batch_size=args.batch_size, seed=args.seed, shuffle=True)
    test = task.encode("test", tokenizer)

    student = build_student(teachers[0], StudentSpec(shape=args.shape), seed=args.seed)
    adaptor = task.adaptor()
    distiller = MultiTeacherDistiller(
        TrainingConfig(output_dir=args.output, seed=args.seed, log_every=100),
        DistillationConfig(temperature=args.temperature, kd_loss_type="forward_kl", is_caching_logits=True),
        teachers, student, adaptor, adaptor, teacher_weights=args.weights, average=args.average,
    )
    steps = args.epochs * len(loader)
    with distiller:
        distiller.train(
            torch.optim.AdamW(student.parameters(), lr=args.learning_rate, fused=True), loader, num_epochs=args.epochs,
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args={"num_warmup_steps": steps // 10, "num_training_steps": steps}, max_grad_norm=1.0,
        )
    together = EnsembleTeacher([LiveTeacher(teacher, adaptor) for teacher in teachers], args.weights, args.average)
    print(json.dumps({
        "teachers": [task.evaluate(teacher, test).metrics["accuracy"] for teacher in teachers],
        "mean of the teachers": task.judged(test, source_answers(together, test, task.reads, batch_size=64)).metrics[
            "accuracy"],
        "student": task.evaluate(student, test).metrics["accuracy"],
        "checkpoint": str(Path(args.output) / f"gs{steps}"),
    }))


if __name__ == "__main__":
    main()
