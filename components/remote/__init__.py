"""Components that live behind an address: `sf.RemoteAutoencoder`, and what answers it."""

from .autoencoder import RemoteAutoencoder as RemoteAutoencoder
from .service import AutoencoderService as AutoencoderService
from .service import Reply as Reply
