//! The machine's topology: NUMA nodes, their processors, memory and distances.

use std::fs;
use std::path::Path;

/// A NUMA node. It may have processors, memory, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The system's number for the node.
    pub index: u32,
    /// Its processors that are online and on which this process may run.
    pub cpus: Vec<u32>,
    /// Bytes of its memory; 0 if it has none or this process may not use it.
    pub memory_bytes: usize,
    /// Bytes of the node's memory that are free or hold file pages, which can be reclaimed.
    pub available_bytes: usize,
    /// Relative distances to all nodes, in the order of [`Topology::nodes`]; 10 means local.
    pub distances: Vec<u32>,
}

/// The NUMA nodes of this machine, in ascending order of index; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The online nodes.
    pub nodes: Vec<Node>,
}

impl Topology {
    /// Reads the topology of this machine. A system that reports no nodes has one node with all
    /// processors and memory.
    pub fn read() -> Topology {
        Topology::read_under(Path::new("/"))
    }

    /// As [`Topology::read`], with `proc` and `sys` under `root`: for machines recorded in a
    /// folder.
    pub fn read_under(root: &Path) -> Topology {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let status = text("proc/self/status");
        let allowed = |key| status.lines().find_map(|line| line.strip_prefix(key)).map(numbers_of);
        let cpus_allowed = allowed("Cpus_allowed_list:");
        let nodes_allowed = allowed("Mems_allowed_list:");
        let cpus_online = numbers_of(&text("sys/devices/system/cpu/online"));
        let may_run = |cpu: &u32| {
            cpus_allowed.as_ref().is_none_or(|allowed| allowed.contains(cpu))
                && (cpus_online.is_empty() || cpus_online.contains(cpu))
        };
        let mut nodes: Vec<Node> = numbers_of(&text("sys/devices/system/node/online"))
            .into_iter()
            .map(|index| {
                let file = |name| text(&format!("sys/devices/system/node/node{index}/{name}"));
                let meminfo = file("meminfo");
                let usable = nodes_allowed.as_ref().is_none_or(|allowed| allowed.contains(&index));
                let bytes = |key| if usable { node_bytes(&meminfo, key) } else { 0 };
                Node {
                    index,
                    cpus: numbers_of(&file("cpulist")).into_iter().filter(may_run).collect(),
                    memory_bytes: bytes("MemTotal:"),
                    available_bytes: bytes("MemFree:") + bytes("FilePages:"),
                    distances: file("distance").split_whitespace().filter_map(|d| d.parse().ok()).collect(),
                }
            })
            .collect();
        if nodes.is_empty() {
            let meminfo = text("proc/meminfo");
            nodes.push(Node {
                index: 0,
                cpus: cpus_online.iter().copied().filter(may_run).collect(),
                memory_bytes: node_bytes(&meminfo, "MemTotal:"),
                available_bytes: node_bytes(&meminfo, "MemAvailable:"),
                distances: vec![10],
            });
        }
        Topology { nodes }
    }

    /// The node with this index.
    pub fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.index == index)
    }

    /// The indices of the nodes whose memory this process may use.
    pub fn with_memory(&self) -> Vec<u32> {
        self.nodes.iter().filter(|node| node.memory_bytes > 0).map(|node| node.index).collect()
    }

    /// The distance from the processors of node `from` to the memory of node `to`; 10 means local.
    pub fn distance(&self, from: u32, to: u32) -> Option<u32> {
        let at = self.nodes.iter().position(|node| node.index == to)?;
        self.node(from)?.distances.get(at).copied()
    }

    /// The processors of each of `threads` threads, which are spread evenly over the nodes. With as
    /// many threads as processors, each thread gets one processor. With fewer, each gets all
    /// processors of its node, so that the system can move it away from other processes. With more,
    /// returns `None`: the scheduler then does better than a fixed binding.
    pub fn thread_cpus(&self, threads: usize) -> Option<Vec<&[u32]>> {
        let all: Vec<(&Node, usize)> =
            self.nodes.iter().flat_map(|node| (0..node.cpus.len()).map(move |at| (node, at))).collect();
        if threads == 0 || threads > all.len() {
            return None;
        }
        let cpus = |thread: usize| {
            let (node, at) = all[thread * all.len() / threads];
            if threads == all.len() { &node.cpus[at..=at] } else { &node.cpus[..] }
        };
        Some((0..threads).map(cpus).collect())
    }

    /// The nearest node with memory: the node itself if it has some.
    pub fn nearest_memory(&self, index: u32) -> Option<u32> {
        self.node(index)?;
        let far = |node: u32| (node != index, self.distance(index, node).unwrap_or(u32::MAX));
        self.with_memory().into_iter().min_by_key(|node| far(*node))
    }
}

/// The NUMA node of a PCI device, given its bus id (`0000:3b:00.0`; upper case and longer domains
/// are accepted). `None` if there is no such device or the system does not know its node.
pub fn node_of_pci(bus_id: &str) -> Option<u32> {
    node_of_pci_under(Path::new("/"), bus_id)
}

/// As [`node_of_pci`], with `sys` under `root`.
pub fn node_of_pci_under(root: &Path, bus_id: &str) -> Option<u32> {
    let (domain, place) = bus_id.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    let name = format!("{domain:04x}:{}", place.to_ascii_lowercase());
    let text = fs::read_to_string(root.join("sys/bus/pci/devices").join(name).join("numa_node")).ok()?;
    text.trim().parse().ok() // −1 means unknown and fails to parse as u32
}

/// The processor's model name. `None` if the system does not report it.
pub fn processor_name() -> Option<String> {
    processor_name_under(Path::new("/"))
}

/// As [`processor_name`], with `proc` under `root`.
pub fn processor_name_under(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("proc/cpuinfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Parses a list such as `0-3,8,10-11`.
fn numbers_of(list: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse()) {
            numbers.extend(first..=last);
        }
    }
    numbers
}

/// The bytes in a line such as `Node 0 MemTotal:  17656024 kB`; 0 if it is missing.
fn node_bytes(meminfo: &str, key: &str) -> usize {
    let kib = |line: &str| -> Option<usize> {
        line.split_once(key)?.1.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    meminfo.lines().find_map(kib).unwrap_or(0) * 1024
}
