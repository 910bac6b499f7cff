package guard_test

import (
	"net/netip"
	"strings"
	"testing"

	"tollgate/policy/alerts/guard"
)

// Nothing but the public internet, in whatever form it is written.
func TestGuard(t *testing.T) {
	g := guard.New(nil)
	for _, a := range strings.Fields(`
		0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.254 127.0.0.1 127.9.9.9 169.254.169.254 172.16.0.1 172.31.255.255
		192.0.0.1 192.168.1.1 198.18.0.1 224.0.0.1 255.255.255.255 203.0.113.7
		:: ::1 ::127.0.0.1 ::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 64:ff9b::808:808 64:ff9b:1::1
		2001::1 2002:7f00:1:: 2001:db8::1 fc00::1 fd12::1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 2606:4700::1%eth0`) {
		if g.Judge(netip.MustParseAddr(a)) == nil {
			t.Errorf("%s is let pass", a)
		}
	}
	for _, a := range strings.Fields("8.8.8.8 100.128.0.1 172.32.0.1 192.1.0.1 ::ffff:8.8.8.8 2606:4700:4700::1111 2a00:1450::1") {
		if err := g.Judge(netip.MustParseAddr(a)); err != nil {
			t.Error(err)
		}
	}
	if g.Judge(netip.Addr{}) == nil {
		t.Error("no address is let pass")
	}
	allowed, err := guard.ParseAllowed("10.1.0.0/16, ::1")
	if err != nil {
		t.Fatal(err)
	}
	g = guard.New(allowed)
	for a, ok := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "::1": true, "10.2.0.1": false, "127.0.0.1": false} {
		if err := g.Judge(netip.MustParseAddr(a)); (err == nil) != ok {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, text := range []string{"10.1.0.1/16", "x", "10.0.0.0/8,", "fe80::1%eth0", "::ffff:10.0.0.0/104"} {
		if _, err := guard.ParseAllowed(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// What a dialer tells of is an address and a port.
func TestControl(t *testing.T) {
	g := guard.New(nil)
	for address, want := range map[string]string{"8.8.8.8:443": "", "[2606:4700::1]:443": "", "127.0.0.1:443": "no address of the public internet", "[::1]:443": "no address of the public internet", "8.8.8.8": "", "name:443": ""} {
		err := g.Control("tcp", address, nil)
		if bad := want != "" || address == "8.8.8.8" || address == "name:443"; (err != nil) != bad || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if allowed, err := guard.ParseAllowed(""); err != nil || allowed != nil {
		t.Errorf("%v, %v", allowed, err)
	}
}
