"""Fine-tune a small classifier: frozen backbone, new head, imbalanced classes.

Effective batch size = batch_size * accum. The learning rate warms up linearly and then decays linearly.
"""

import argparse
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler


class Blobs(Dataset):
    """Grayscale 12x12 images with one bright blob; the class is the quadrant it is in."""

    def __init__(self, n, seed, augment=False):
        rng = np.random.RandomState(seed)
        self.labels = rng.choice(4, size=n, p=[0.55, 0.25, 0.15, 0.05])
        self.images = rng.normal(0, 0.3, (n, 12, 12)).astype(np.float32)
        for image, label in zip(self.images, self.labels):
            y, x = 6 * (label // 2) + rng.randint(0, 4), 6 * (label % 2) + rng.randint(0, 4)
            image[y : y + 3, x : x + 3] += 1.0
        self.augment = augment

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, idx):
        image = self.images[idx]
        if self.augment:
            image = np.roll(image, np.random.randint(-1, 2), axis=random.choice((0, 1)))
            image = image * np.random.uniform(0.8, 1.2) + np.random.normal(0, 0.1, image.shape)
            if random.random() < 0.1:
                image = np.zeros_like(image)
        return torch.as_tensor(image, dtype=torch.float32)[None], int(self.labels[idx])


class Classifier(nn.Module):
    def __init__(self, n_classes=4):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, n_classes))

    def freeze_backbone(self):
        for p in self.backbone.parameters():
            p.requires_grad = False

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()  # keep the running statistics of BatchNorm
        return self

    def forward(self, x):
        return self.head(self.backbone(x))


class AverageMeter:
    def __init__(self):
        self.sum = 0.0
        self.count = 0

    def update(self, value, n):
        self.sum += value * n
        self.count += n

    def flush(self):
        """Return the average and start over."""
        average = self.sum / max(self.count, 1)
        self.sum, self.count = 0.0, 0
        return average


def set_seed(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def get_linear_schedule_with_warmup(optimizer, warmup, total):
    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (total - step) / max(1, total - warmup))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    loss, correct = 0.0, 0
    for images, labels in loader:
        logits = model(images)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(1) == labels).sum().item()
    return loss / len(loader.dataset), correct / len(loader.dataset)


def main(args):
    set_seed(args.seed)
    train_set = Blobs(160, seed=0, augment=True)
    val_set = Blobs(96, seed=1)

    # sample rare classes as often as the others
    class_weights = 1.0 / np.bincount(train_set.labels, minlength=4).clip(1)
    sampler = WeightedRandomSampler(class_weights[train_set.labels], len(train_set), replacement=True)
    train_loader = DataLoader(train_set, args.batch_size, sampler=sampler, num_workers=args.workers)
    val_loader = DataLoader(val_set, batch_size=32)

    model = Classifier()
    if args.backbone:
        model.backbone.load_state_dict(torch.load(args.backbone, weights_only=True))
    model.freeze_backbone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr)
    updates_per_epoch = -(-len(train_loader) // args.accum)
    scheduler = get_linear_schedule_with_warmup(optimizer, args.warmup, args.epochs * updates_per_epoch)
    losses = AverageMeter()

    for epoch in range(args.epochs):
        model.train()
        for step, (images, labels) in enumerate(train_loader):
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.05)
            (loss / args.accum).backward()
            losses.update(loss.item(), len(labels))
            if (step + 1) % args.accum == 0 or step + 1 == len(train_loader):
                nn.utils.clip_grad_norm_(model.head.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()

        val_loss, val_acc = evaluate(model, val_loader)
        train_loss = losses.flush()
        lr = scheduler.get_last_lr()[0]
        print(f"epoch {epoch}: train {train_loss:.4f}  val {val_loss:.4f}  acc {val_acc:.1%}  lr {lr:.2e}")

    torch.save(model.state_dict(), args.output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--accum", type=int, default=4, help="batches per optimizer step")
    parser.add_argument("--lr", type=float, default=2e-2)
    parser.add_argument("--warmup", type=int, default=3, help="optimizer steps")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--backbone", help="weights of a pretrained backbone")
    parser.add_argument("--output", default="model.pt")
    main(parser.parse_args())
