import sys

from mlx_lm import server

if __name__ == "__main__":
    del sys.argv[1]
    server.main()
