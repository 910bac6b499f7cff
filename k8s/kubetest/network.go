//go:build linux

package kubetest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// hostAddress is where containers find what is not in a container: the API server, and what a test
// listens with.
const hostAddress = "10.244.0.1"

// nodeServer is where the API server asks the node for logs: kubeletPort at hostAddress.
const (
	kubeletPort = 10250
	nodeServer  = hostAddress + ":10250"
)

// openNetwork connects the namespaces of pods: a bridge, in the network namespace of this process.
// Where ip keeps their names is this process' own, too.
func openNetwork() error {
	const names = "/run/netns"
	if err := os.MkdirAll(names, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("kubetest", names, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", names, err)
	}
	return ip("link set lo up", "link add pods type bridge", "addr add "+hostAddress+"/16 dev pods", "link set pods up")
}

// addNetwork gives the nth pod a network namespace and an address.
func addNetwork(n int) (name, address string, err error) {
	name, address = fmt.Sprintf("pod%d", n), fmt.Sprintf("10.244.%d.%d", 1+n/250, 1+n%250)
	return name, address, ip("netns add "+name,
		"link add "+name+" type veth peer name eth0 netns "+name, "link set "+name+" master pods up",
		"-n "+name+" addr add "+address+"/16 dev eth0", "-n "+name+" link set eth0 up", "-n "+name+" link set lo up")
}

func removeNetwork(name string) error { return ip("netns del " + name) }

// ip runs commands of the program ip.
func ip(commands ...string) error {
	for _, command := range commands {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, out)
		}
	}
	return nil
}
