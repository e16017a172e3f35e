"""Old import path of the loss functions, as means with the old names."""

from stillhouse.presets import KD_LOSS_MAP, MATCH_LOSS_MAP

kd_ce_loss = KD_LOSS_MAP["ce"]
kd_mse_loss = KD_LOSS_MAP["mse"]
hid_mse_loss = MATCH_LOSS_MAP["hidden_mse"]
cos_loss = MATCH_LOSS_MAP["cos"]
pkd_loss = MATCH_LOSS_MAP["pkd"]
mmd_loss = MATCH_LOSS_MAP["mmd"]

__all__ = ["cos_loss", "hid_mse_loss", "kd_ce_loss", "kd_mse_loss", "mmd_loss", "pkd_loss"]
