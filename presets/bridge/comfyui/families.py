"""Which family the files of a workflow are of: ours by name, others by the words that people know them by."""

import re
from collections.abc import Iterable

OURS = ("sd", "sdxl", "sd3", "flux")
"""The families whose workflows become graphs that run."""

_BY_FILE: tuple[tuple[str, str], ...] = (
    (r"flux[-_.]?2|klein", "FLUX.2"),
    (r"flux[-_.]?3", "FLUX.3"),
    (r"kontext", "flux"),
    (r"flux", "flux"),
    (r"chroma", "Chroma"),
    (r"sd3|stable.?diffusion.?3", "sd3"),
    (r"svd|img2vid", "Stable Video Diffusion"),
    (r"stable.?audio", "Stable Audio"),
    (r"cascade", "Stable Cascade"),
    (r"qwen.?image|firered.?image", "Qwen-Image"),
    (r"z.?image", "Z-Image"),
    (r"wan|chrono.?edit|bernini|vace", "Wan"),
    (r"hunyuan.?3d", "Hunyuan3D"),
    (r"hunyuan|capybara", "Hunyuan"),
    (r"ltx", "LTX-Video"),
    (r"hidream", "HiDream"),
    (r"lumina|netayume|newbie", "Lumina 2"),
    (r"omnigen", "OmniGen 2"),
    (r"krea2", "Krea 2"),
    (r"moss.?image", "MOSS-Image"),
    (r"minimax", "MiniMax"),
    (r"anima", "Anima"),
    (r"fibo", "Fibo 2"),
    (r"ideogram", "Ideogram 4"),
    (r"mage.?flow", "Mage-Flow"),
    (r"boogu", "Boogu"),
    (r"lens", "Lens"),
    (r"longcat", "LongCat"),
    (r"kandinsky", "Kandinsky 5"),
    (r"ernie", "ERNIE-Image"),
    (r"pixeldit", "PixelDiT"),
    (r"ovis", "Ovis"),
    (r"ming.?image", "Ming-Image"),
    (r"joyai|joy.?image", "JoyAI"),
    (r"lotus", "Lotus"),
    (r"cosmos", "Cosmos"),
    (r"mochi", "Mochi"),
    (r"pixart", "PixArt"),
    (r"auraflow|pony.?v7", "AuraFlow"),
    (r"ace.?step", "ACE-Step"),
    (r"xl|pony|illustrious|noob|juggernaut|playground", "sdxl"),
    (r"sd.?turbo|v2-1|v2_1|768-v|512-base", "sd"),
    (r"v1-5|v1_5|sd.?1|sd15|1\.5|dreamshaper|realistic|deliberate|anything|counterfeit|revanimated", "sd"),
)
_BY_CLIP = {
    "stable_diffusion": "sd", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux", "stable_cascade": "Stable Cascade",
    "stable_audio": "Stable Audio", "mochi": "Mochi", "ltxv": "LTX-Video", "pixart": "PixArt", "cosmos": "Cosmos",
    "lumina2": "Lumina 2", "wan": "Wan", "hidream": "HiDream", "chroma": "Chroma", "ace": "ACE-Step",
    "omnigen2": "OmniGen 2", "qwen_image": "Qwen-Image", "hunyuan_image": "Hunyuan", "hunyuan_video": "Hunyuan",
    "hunyuan_video_15": "Hunyuan", "flux2": "FLUX.2", "flux3": "FLUX.3", "ovis": "Ovis", "longcat_image": "LongCat",
    "minimax": "MiniMax", "kandinsky5": "Kandinsky 5", "kandinsky5_image": "Kandinsky 5", "newbie": "Lumina 2",
}  # fmt: skip
_BY_NODE: tuple[tuple[str, str], ...] = (
    (r"Qwen.?Image|QwenImage", "Qwen-Image"),
    (r"Flux2|FluxKVCache|FluxKontextMultiReference", "FLUX.2"),
    (r"Flux3", "FLUX.3"),
    (r"^(HiDream)", "HiDream"),
    (r"^(Wan|Bernini|SCAIL|TrimVideoLatent)", "Wan"),
    (r"^(LTX|Guider.*LTX)", "LTX-Video"),
    (r"^(Empty)?Hunyuan", "Hunyuan"),
    (r"MOSS", "MOSS-Image"),
    (r"MageFlow", "Mage-Flow"),
    (r"Fibo", "Fibo 2"),
    (r"Boogu", "Boogu"),
    (r"JoyImage", "JoyAI"),
    (r"Ideogram", "Ideogram 4"),
    (r"Chroma", "Chroma"),
    (r"^(Lotus|SetFirstSigma)", "Lotus"),
    (r"Anima", "Anima"),
    (r"^(MoGe|LoadMoGe)", "MoGe"),
    (r"^(DA3|LoadDA3)", "Depth Anything 3"),
    (r"SDPose", "SDPose"),
    (r"^SAM\d", "Segment Anything"),
    (r"AceStep", "ACE-Step"),
    (r"^(TextGenerate)", "text generation"),
    (r"Cosmos", "Cosmos"),
    (r"Mochi", "Mochi"),
    (r"Minimax|MiniMax", "MiniMax"),
    (r"^(Kling|Gemini|OpenAI|ByteDance|Grok|Recraft|Tripo|Meshy|ElevenLabs|Runway|Luma|Vidu|Pika|Moonvalley|Stability|BFL|Flux.*Pro|"
     r"Rodin|Veo|Topaz|Claude|OpenRouter|Bria|Magnific|Wavespeed|Reve|Sora|Hailuo)", "a paid service"),
)  # fmt: skip


def family_of_file(name: str, clip_type: str = "") -> str:
    """The family that the name of a model file says; "" where it says none. clip_type: of a loader of text encoders."""
    if clip_type:
        return _BY_CLIP.get(clip_type) or family_of_file(clip_type) or clip_type
    spelled = name.lower()
    return next((family for pattern, family in _BY_FILE if re.search(pattern, spelled)), "")


def family_of_node(kind: str) -> str:
    """The family that the name of a node type says; "" where it says none."""
    return next((family for pattern, family in _BY_NODE if re.search(pattern, kind)), "")


def foreign(families: Iterable[str]) -> str:
    """The first family among these that is not ours; "" if there is none."""
    return next((family for family in families if family and family not in OURS), "")
