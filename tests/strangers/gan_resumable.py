"""Train a tiny GAN on the classic ring of 8 Gaussians, with AMP and an EMA of the generator.

python gan.py --epochs 3
"""

import argparse
import math

import torch
from torch import nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from koemorph_tutorial import CheckpointManager, ResumableLoader


def ring(n, modes=8, std=0.05):
    angle = 2 * math.pi * torch.randint(modes, (n,)) / modes
    return torch.stack([angle.cos(), angle.sin()], dim=1) + std * torch.randn(n, 2)


def mlp(n_in, n_out, hidden=64):
    return nn.Sequential(
        nn.Linear(n_in, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(hidden, n_out),
    )


@torch.no_grad()
def distance_to_ring(net, z):
    """Mean distance of samples to the unit circle, lower is better."""
    return (net(z).norm(dim=1) - 1).abs().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--nz", type=int, default=16, help="size of the latent vector")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=999)
    parser.add_argument("--out", default="generator_ema.pt")
    opt = parser.parse_args()

    torch.manual_seed(opt.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    dataset = TensorDataset(ring(640))
    loader = DataLoader(dataset, batch_size=opt.batch_size, shuffle=True, num_workers=opt.workers, drop_last=True)
    loader = ResumableLoader(loader)

    netG = mlp(opt.nz, 2).to(device)
    netD = mlp(2, 1).to(device)
    ema = AveragedModel(netG, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optG = optim.Adam(netG.parameters(), lr=opt.lr, betas=(0.5, 0.999))
    optD = optim.Adam(netD.parameters(), lr=opt.lr, betas=(0.5, 0.999))
    scaler = torch.amp.GradScaler(device, growth_interval=8)
    criterion = nn.BCEWithLogitsLoss()
    fixed_noise = torch.randn(256, opt.nz, device=device)
    state = {"netG": netG, "netD": netD, "optG": optG, "optD": optD, "ema": ema, "scaler": scaler, "loader": loader}
    checkpoints = CheckpointManager("checkpoints", state, config=opt)

    for epoch in checkpoints.epochs(opt.epochs):
        for i, (real,) in enumerate(loader):
            real = real.to(device)
            real = real + 0.02 * torch.randn_like(real)  # instance noise
            ones = torch.ones(len(real), 1, device=device)
            zeros = torch.zeros(len(real), 1, device=device)

            # (1) Update D: maximize log(D(x)) + log(1 - D(G(z)))
            noise = torch.randn(len(real), opt.nz, device=device)
            with torch.autocast(device, dtype=torch.float16):
                fake = netG(noise)
                errD = criterion(netD(real).float(), ones) + criterion(netD(fake.detach()).float(), zeros)
            optD.zero_grad()
            scaler.scale(errD).backward()
            scaler.step(optD)

            # (2) Update G: maximize log(D(G(z)))
            with torch.autocast(device, dtype=torch.float16):
                errG = criterion(netD(fake).float(), ones)
            optG.zero_grad()
            scaler.scale(errG).backward()
            scaler.step(optG)
            scaler.update()
            ema.update_parameters(netG)
            checkpoints.step()

            if i % 5 == 0:
                print(f"[{epoch}/{opt.epochs}][{i}/{len(loader)}] Loss_D {errD.item():.4f} Loss_G {errG.item():.4f}")

        dist = distance_to_ring(ema, fixed_noise)
        print(f"epoch {epoch}: distance to ring {dist:.4f}, scale {scaler.get_scale():g}")
        checkpoints.save({"loss": dist})

    torch.save(ema.module.state_dict(), opt.out)


if __name__ == "__main__":
    main()
