"""read_ray.py FOLDER"""

import sys
from pathlib import Path

import ray
from found import show_sample

ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
for sample in ray.data.read_webdataset(sorted(map(str, Path(sys.argv[1]).glob("*.tar"))), decoder=None).iter_rows():
    show_sample({name: str(value) if name.startswith("__") else value for name, value in sample.items()})
