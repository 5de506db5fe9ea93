# Two nodes of equal memory, the CPUs 0 and 1 on the first, 2 and 3 on the second.

section topology
hindsight topology --json

run separate -f /prompt.txt -n 8 --top-k 32 --dense-tokens 0 --indexer-node 1 --arena-node 1 --placement separate-node
run crossed -p Once -n 4 --indexer-node 1 --arena-node 0 --placement same-node
run joined -p Once -n 4 --indexer-node 1 --arena-node 1 --hugepages 2M
run small -p Once -n 4 --indexer-node 1 --arena-node 1 --hugepages off

for node in 0 1; do
    echo 20 >/sys/devices/system/node/node$node/hugepages/hugepages-2048kB/nr_hugepages
done
run reserved -p Once -n 4 --indexer-node 1 --arena-node 1 --hugepages 2M
for node in 0 1; do
    echo 0 >/sys/devices/system/node/node$node/hugepages/hugepages-2048kB/nr_hugepages
done

# A control group that may use the first node's memory, and CPUs of both nodes.
mkdir /groups
mount -t cgroup2 cgroup2 /groups
echo +cpuset >/groups/cgroup.subtree_control
mkdir /groups/first
echo 0-2 >/groups/first/cpuset.cpus
echo 0 >/groups/first/cpuset.mems
echo $$ >/groups/first/cgroup.procs
run confined -p Once -n 4 --indexer-node 1
run confined-named -p Once -n 4 --indexer-node 1 --arena-node 1
run confined-core -p Once -n 4 --indexer-core 3
echo $$ >/groups/cgroup.procs

# Now the second node is full but for some 16 MiB, which the kernel keeps. What the kernel could drop is dropped first, and it is
# asked again and again how much is left: it takes some itself meanwhile.
free_kib() { sed -n 's/.*MemFree: *\([0-9]*\) kB/\1/p' /sys/devices/system/node/node1/meminfo; }
echo 3 >/proc/sys/vm/drop_caches
mkdir /full
mount -t tmpfs -o mpol=bind:1,size=100% tmpfs /full
while [ "$(free_kib)" -gt 49152 ]; do
    dd if=/dev/zero bs=1048576 count=2 2>/dev/null >>/full/zeros
done
run full -p Once -n 4 --indexer-node 1 --hugepages 2M
run full-named -p Once -n 4 --indexer-node 1 --arena-node 1
