package imagebuilder_test

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"hatchery/imagebuilder"
	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/identity"
)

// TestPageCertificate is in the controller's image where cluster.yaml has the page
// on the LAN, the same whenever it is built, and in no node's.
func TestPageCertificate(t *testing.T) {
	b := newBench(t)
	const more = "controller: {hostname: hammond, address: 192.168.42.10/24, gateway: 192.168.42.1}\ndomain: chappa.example\nslots: {p1: {}}\n"
	const folder = "/etc/hatchery/identity/"
	read := func(target, name string) []byte {
		t.Helper()
		tree, err := openImage(t, b.path("out/"+target+".img")).Tree()
		if err != nil {
			t.Fatal(err)
		}
		data, err := diskimage.ReadFile(tree, folder+name, 1<<16)
		if err != nil && !strings.Contains(err.Error(), "not exist") {
			t.Fatal(err)
		}
		return data
	}
	b.build(b.cluster("homelab", more), "out", "controller")
	if read("controller", "page.pem") != nil {
		t.Error("there is one, though nobody reaches the page")
	}
	b.build(b.cluster("homelab", more+"serve: {listen: lan}\n"), "out", "controller", "p1")
	certificate, key := read("controller", "page.pem"), read("controller", "page-key.pem")
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	store, err := identity.Open(b.path("identity"), "homelab")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(store.CA())
	for _, name := range []string{"hammond", "hammond.local", "hammond.chappa.example", "localhost", "127.0.0.1", "172.19.181.254", "192.168.42.10"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if read("p1", "page.pem") != nil || read("p1", "page-key.pem") != nil || read("p1", "key.pem") == nil {
		t.Error("the node has one")
	}
	var private []string
	for _, p := range inspect(t, b.path("out/controller.img"), b.path("cache")).Private {
		private = append(private, p.Path)
	}
	if !slices.Contains(private, folder+"page-key.pem") {
		t.Errorf("private files %q", private)
	}
	if states := b.build(b.cluster("homelab", more+"serve: {listen: lan}\n"), "out", "controller"); states["controller"] != imagebuilder.ImageUnchanged {
		t.Errorf("built again it is %s", states["controller"])
	}
}
