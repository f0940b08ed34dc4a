"""How fast bundles are on this machine: `trt-audioldm2-bench`."""
