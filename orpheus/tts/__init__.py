"""The pipeline of one speech request: segments → tokens → frames → PCM → encoded bytes. Read `pipeline` first."""
