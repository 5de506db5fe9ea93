# Three nodes: the last has CPU 3, but no memory.

section topology
hindsight topology --json

run near -p Once -n 4 --indexer-node 2
run bare -p Once -n 4 --arena-node 2
run no-such-node -p Once -n 4 --indexer-node 3
