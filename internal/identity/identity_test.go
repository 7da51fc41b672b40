package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"hatchery/internal/identity"
	"hatchery/internal/testtool"
)

func open(t *testing.T, dir string) *identity.Store {
	t.Helper()
	s, err := identity.Open(dir, "homelab")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// get asks for a target by name alone, with the host name that it has in
// these tests.
func get(t *testing.T, s *identity.Store, name string) *identity.Identity {
	t.Helper()
	id, err := s.Target(name, slot(name), "host-"+name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func slot(name string) int {
	var n int
	fmt.Sscanf(name, "p%d", &n)
	return n
}

func certificate(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("no PEM: %q", data)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificates(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "identity"))
	for _, test := range []struct {
		summary, name, hostname string
		slot                    int
		uri                     string
		dns                     []string
		ip                      string
	}{
		{"a slot", "p2", "carter", 2, "hatchery://homelab/slot/2/generation/1", []string{"carter", "p2"}, "172.19.181.2"},
		{"capitals", "p3", "O-Neil", 3, "hatchery://homelab/slot/3/generation/1", []string{"o-neil", "p3"}, "172.19.181.3"},
		{"host name by default", "p4", "p4", 4, "hatchery://homelab/slot/4/generation/1", []string{"p4"}, "172.19.181.4"},
		{"the controller", "controller", "hammond", 0, "hatchery://homelab/slot/0/generation/1", []string{"hammond", "controller"}, "172.19.181.254"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			id, err := s.Target(test.name, test.slot, test.hostname)
			if err != nil {
				t.Fatal(err)
			}
			c := certificate(t, id.Certificate)
			if c.Subject.CommonName != test.name || len(c.URIs) != 1 || c.URIs[0].String() != test.uri {
				t.Errorf("subject %s, URIs %v", c.Subject, c.URIs)
			}
			if !slices.Equal(c.DNSNames, test.dns) || len(c.IPAddresses) != 1 || c.IPAddresses[0].String() != test.ip {
				t.Errorf("names %v, addresses %v", c.DNSNames, c.IPAddresses)
			}
			if got := c.NotBefore.Format(time.RFC3339) + " " + c.NotAfter.Format(time.RFC3339); got != "2000-01-01T00:00:00Z 9999-12-31T23:59:59Z" {
				t.Errorf("valid %s", got)
			}
			if k, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
				t.Errorf("key %T", c.PublicKey)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(id.CA)
			for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
				for _, now := range []time.Time{time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC), time.Date(2500, 1, 1, 0, 0, 0, 0, time.UTC)} {
					if _, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
						t.Errorf("usage %v at %v: %v", usage, now, err)
					}
				}
			}
			if test.slot > 0 && c.VerifyHostname("172.19.181.254") == nil {
				t.Error("a node's certificate passes for the controller's")
			}
			if id.Generation != 1 || id.Slot != test.slot || id.Name != test.name {
				t.Errorf("%v", id)
			}
		})
	}
}

// TestMutualTLS has a node and the controller talk as they will.
func TestMutualTLS(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "identity"))
	config := func(id *identity.Identity) *tls.Config {
		pair, err := tls.X509KeyPair(id.Certificate, id.Key)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(id.CA)
		return &tls.Config{
			Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool,
			ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13, ServerName: "172.19.181.254",
		}
	}
	a, b := net.Pipe()
	server := tls.Server(a, config(get(t, s, "controller")))
	client := tls.Client(b, config(get(t, s, "p2")))
	go func() {
		fmt.Fprint(client, "hello")
		client.Close()
	}()
	got, err := io.ReadAll(server)
	if err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	if peer := server.ConnectionState().PeerCertificates[0].URIs[0].Path; peer != "/slot/2/generation/1" {
		t.Fatalf("peer %s", peer)
	}
}

func TestOpenSSLAgrees(t *testing.T) {
	testtool.Need(t, "openssl")
	dir := filepath.Join(t.TempDir(), "identity")
	s := open(t, dir)
	get(t, s, "p2")
	crt, ca := filepath.Join(dir, "p2/generation-1.crt"), filepath.Join(dir, "ca.crt")
	for _, purpose := range []string{"sslclient", "sslserver"} {
		out := testtool.Run(t, "openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca, crt)
		if !strings.Contains(out, ": OK") {
			t.Errorf("openssl verify: %s", out)
		}
	}
	out := testtool.Run(t, "openssl", "x509", "-in", ca, "-noout", "-fingerprint", "-sha256")
	if !strings.Contains(strings.ToLower(strings.ReplaceAll(out, ":", "")), s.Fingerprint()) {
		t.Errorf("openssl's fingerprint %s, ours %s", out, s.Fingerprint())
	}
	public := testtool.Run(t, "openssl", "pkey", "-in", filepath.Join(dir, "p2/generation-1.key"), "-pubout")
	if fromCert := testtool.Run(t, "openssl", "x509", "-in", crt, "-noout", "-pubkey"); fromCert != public {
		t.Errorf("key and certificate differ:\n%s%s", public, fromCert)
	}
}

func TestSSHKeygenAgrees(t *testing.T) {
	testtool.Need(t, "ssh-keygen")
	dir := filepath.Join(t.TempDir(), "identity")
	id := get(t, open(t, dir), "p2")
	out := testtool.Run(t, "ssh-keygen", "-y", "-P", "", "-f", filepath.Join(dir, "p2/ssh_host_ed25519_key-1"))
	if fields := strings.Fields(out); len(fields) < 2 || strings.Join(fields[:2], " ") != id.HostKeyPublic {
		t.Errorf("ssh-keygen says %q, we %q", out, id.HostKeyPublic)
	}
	line, err := id.KnownHosts("carter", "172.19.181.2")
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"carter", "172.19.181.2"} {
		if out := testtool.Run(t, "ssh-keygen", "-F", host, "-f", known); !strings.Contains(out, id.HostKeyPublic) {
			t.Errorf("ssh-keygen finds %q for %s", out, host)
		}
	}
	for _, bad := range []string{"", "a b", "a,b", "a\nb"} {
		if line, err := id.KnownHosts(bad); err == nil {
			t.Errorf("%q gave the line %q", bad, line)
		}
	}
}

// TestKept opens a store again and again: nothing of it may change, except
// what was asked for.
func TestKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	first := open(t, dir)
	p2 := get(t, first, "p2")
	before := contents(t, dir)

	again := open(t, dir)
	if id := get(t, again, "p2"); !reflect.DeepEqual(id, p2) {
		t.Error("p2 has changed")
	}
	if again.Fingerprint() != first.Fingerprint() || again.MachineID("p2") != first.MachineID("p2") || again.DiskID("p2") != first.DiskID("p2") {
		t.Error("authority or ids have changed")
	}
	if after := contents(t, dir); !reflect.DeepEqual(after, before) {
		t.Errorf("files changed: %v, then %v", names(before), names(after))
	}

	renamed, err := again.Target("p2", 2, "jackson")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(renamed.Key, p2.Key) || !bytes.Equal(renamed.HostKey, p2.HostKey) || renamed.Generation != 1 {
		t.Error("another host name changed keys or generation")
	}
	if c := certificate(t, renamed.Certificate); !slices.Equal(c.DNSNames, []string{"jackson", "p2"}) {
		t.Errorf("the certificate names %v", c.DNSNames)
	}
	if twice, err := again.Target("p2", 2, "jackson"); err != nil || !bytes.Equal(twice.Certificate, renamed.Certificate) {
		t.Errorf("the certificate was issued twice for one name, %v", err)
	}
}

func TestRenew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	s := open(t, dir)
	first := get(t, s, "p2")
	old := contents(t, dir)

	second, err := s.Renew("p2", 2, "host-p2")
	if err != nil {
		t.Fatal(err)
	}
	if second.Generation != 2 || bytes.Equal(second.Key, first.Key) || !bytes.Equal(second.HostKey, first.HostKey) {
		t.Errorf("%v: key new %t, host key kept %t", second, !bytes.Equal(second.Key, first.Key), bytes.Equal(second.HostKey, first.HostKey))
	}
	if uri := certificate(t, second.Certificate).URIs[0].Path; uri != "/slot/2/generation/2" {
		t.Errorf("URI %s", uri)
	}
	if got := get(t, open(t, dir), "p2"); !reflect.DeepEqual(got, second) {
		t.Error("the next run does not have the new generation")
	}
	now := contents(t, dir)
	for name, content := range old {
		if name != "p2/target.json" && now[name] != content {
			t.Errorf("%s has changed or is gone", name)
		}
	}

	third, err := s.RenewHostKey("p2", 2, "host-p2")
	if err != nil {
		t.Fatal(err)
	}
	if third.Generation != 2 || bytes.Equal(third.HostKey, second.HostKey) || !bytes.Equal(third.Key, second.Key) || !bytes.Equal(third.Certificate, second.Certificate) {
		t.Error("RenewHostKey did not change the host key alone")
	}
	if id, err := s.Renew("p3", 3, "p3"); err != nil || id.Generation != 1 {
		t.Errorf("renewing what never was: %v, %v; want generation 1", id, err)
	}
}

// TestNoAuthorityKey looks for the authority's key, and for the secret, in
// everything that an image gets.
func TestNoAuthorityKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	id := get(t, open(t, dir), "controller")
	files := contents(t, dir)
	block, _ := pem.Decode([]byte(files["ca.key"]))
	v := reflect.ValueOf(*id)
	for i := range v.NumField() {
		field := fmt.Sprintf("%s", v.Field(i).Interface())
		if strings.Contains(field, string(files["ca.key"])) || strings.Contains(field, string(block.Bytes)) {
			t.Errorf("%s holds the authority's key", v.Type().Field(i).Name)
		}
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if printed := fmt.Sprintf(format, id); strings.Contains(printed, "PRIVATE") || printed != "identity of controller, generation 1" {
			t.Errorf("%s prints %q", format, printed)
		}
	}
}

func TestIDs(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "identity"))
	other := open(t, filepath.Join(t.TempDir(), "identity"))
	names := []string{"controller"}
	for n := 1; n <= 252; n++ {
		names = append(names, fmt.Sprintf("p%d", n))
	}
	machines, disks := map[string]bool{}, map[uint32]bool{0: true}
	for _, name := range names {
		id := s.MachineID(name)
		if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" || id[12] != '4' || !strings.ContainsRune("89ab", rune(id[16])) {
			t.Errorf("machine-id %s of %s is no UUID of version 4", id, name)
		}
		if machines[id] || disks[s.DiskID(name)] {
			t.Errorf("%s has an id of another, or none: %s, %08x", name, id, s.DiskID(name))
		}
		machines[id], disks[s.DiskID(name)] = true, true
	}
	if s.MachineID("p1") == other.MachineID("p1") || s.DiskID("p1") == other.DiskID("p1") {
		t.Error("two clusters have the same ids")
	}
}

func TestRights(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a system with POSIX modes")
	}
	dir := filepath.Join(t.TempDir(), "identity")
	s := open(t, dir)
	get(t, s, "p2")
	if len(s.Notices()) > 0 {
		t.Errorf("a new store has notices: %v", s.Notices())
	}
	checkRights(t, dir)
	for name, mode := range map[string]os.FileMode{".": 0o755, "p2": 0o750, "p2/generation-1.key": 0o644, "ca.key": 0o640} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir)
	checkRights(t, dir)
	notices := strings.Join(s.Notices(), "\n")
	for _, want := range []string{"identity had mode 0755", "p2 had mode 0750", "generation-1.key had mode 0644", "ca.key had mode 0640"} {
		if !strings.Contains(notices, want) {
			t.Errorf("no notice %q in:\n%s", want, notices)
		}
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "p2", "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Open(dir, "homelab"); err == nil || !strings.Contains(err.Error(), "link") {
		t.Errorf("a link among the keys: %v", err)
	}
}

func checkRights(t *testing.T, dir string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		want := os.FileMode(0o600)
		if err == nil && info.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestGitIgnoresAll(t *testing.T) {
	testtool.Need(t, "git")
	repo := t.TempDir()
	get(t, open(t, filepath.Join(repo, "identity")), "p2")
	testtool.Run(t, "git", "init", "-q", repo)
	if out := testtool.Run(t, "git", "-C", repo, "status", "--porcelain", "-uall"); out != "" {
		t.Errorf("git would add:\n%s", out)
	}
}

func TestRefused(t *testing.T) {
	for _, test := range []struct {
		summary string
		spoil   func(dir string) error
		err     string
	}{
		{"authority's key gone", remove("ca.key"), "ca.key is missing"},
		{"authority's certificate gone", remove("ca.crt"), "ca.crt is missing"},
		{"both gone", func(dir string) error {
			return errors.Join(remove("ca.crt")(dir), remove("ca.key")(dir))
		}, "ca.key is missing"},
		{"the root file gone", remove("identity.json"), "identity.json is missing"},
		{"a slot's key gone", remove("p2/generation-1.key"), "generation-1.key is missing"},
		{"a host key gone", remove("p2/ssh_host_ed25519_key-1"), "ssh_host_ed25519_key-1 is missing"},
		{"a renewed slot's state gone", remove("p3/target.json"), "target.json is missing beside"},
		{"a present generation's key gone", remove("p3/generation-2.key"), "generation-2.key is missing"},
		{"garbage for a key", write("p2/generation-1.key", "garbage"), "generation-1.key is not a PEM file"},
		{"empty authority key", write("ca.key", ""), "ca.key is not a PEM file"},
		{"garbage for a host key", write("p2/ssh_host_ed25519_key-1", "x"), "holds no ed25519 key"},
		{"garbage for a certificate", write("p2/generation-1.crt", "x"), "generation-1.crt is not a PEM file"},
		{"another's certificate", rename("p3/generation-1.crt", "p2/generation-1.crt"), "is not the certificate of the key beside it"},
		{"another's key", rename("p3/generation-1.key", "p2/generation-1.key"), "is not the certificate of the key beside it"},
		{"a certificate for the authority's", rename("p3/generation-1.crt", "ca.crt"), "ca.crt is not the certificate of ca.key"},
		{"a key where a certificate belongs", rename("p3/generation-1.key", "p2/generation-1.crt"), "is not a PEM file with one certificate"},
		{"broken state", write("p2/target.json", `{"format":1`), "target.json is not the JSON"},
		{"generation 0", write("p2/target.json", `{"format":1,"generation":0,"host_key":1}`), "out of range"},
		{"a future format", write("identity.json", `{"format":2}`), "a newer hatchery wrote"},
		{"short secret", write("identity.json", `{"format":1,"cluster":"homelab","secret":"00"}`), "secret of 1 bytes"},
		{"huge file", write("p2/generation-1.key", strings.Repeat("x", 1<<20)), "far too large"},
		{"a folder for a file", func(dir string) error {
			return errors.Join(remove("p2/generation-1.key")(dir), os.Mkdir(filepath.Join(dir, "p2/generation-1.key"), 0o700))
		}, "is not a file"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "identity")
			s := open(t, dir)
			get(t, s, "p2")
			get(t, s, "p3")
			if _, err := s.Renew("p3", 3, "host-p3"); err != nil {
				t.Fatal(err)
			}
			if err := test.spoil(dir); err != nil {
				t.Fatal(err)
			}
			before := contents(t, dir)
			s, err := identity.Open(dir, "homelab")
			for _, name := range []string{"p2", "p3"} {
				if err == nil {
					_, err = s.Target(name, slot(name), "host-"+name)
				}
			}
			var damaged *identity.DamagedError
			if !errors.As(err, &damaged) || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), "backup") {
				t.Fatalf("error %v, want one with %q and the remedy", err, test.err)
			}
			if !strings.Contains(err.Error(), damaged.File) {
				t.Errorf("%v does not name %s", err, damaged.File)
			}
			if after := contents(t, dir); !reflect.DeepEqual(after, before) {
				t.Error("the damaged store was changed")
			}
		})
	}
}

func remove(name string) func(string) error {
	return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
}

func write(name, content string) func(string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
}

func rename(from, to string) func(string) error {
	return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
}

func TestOtherCluster(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	open(t, dir)
	_, err := identity.Open(dir, "office")
	var other *identity.OtherClusterError
	if !errors.As(err, &other) || other.Have != "homelab" || other.Want != "office" || !strings.Contains(err.Error(), "move the folder away") {
		t.Fatalf("error %v", err)
	}
}

func TestForeignFolder(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), write("holiday.jpg", "x")(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Open(dir, "homelab"); err == nil {
		t.Fatal("a folder with other files was taken over")
	}
	if info, _ := os.Stat(dir); runtime.GOOS != "windows" && info.Mode().Perm() != 0o755 || len(contents(t, dir)) != 1 {
		t.Error("the folder was touched")
	}
}

func TestBadTargets(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "identity"))
	for _, test := range []struct {
		summary, name, hostname string
		slot                    int
	}{
		{"another slot's name", "p3", "x", 2},
		{"the controller as a slot", "controller", "x", 2},
		{"a slot as the controller", "p1", "x", 0},
		{"a way out of the folder", "../p1", "x", 1},
		{"past the last slot", "p253", "x", 253},
		{"no host name", "p2", "", 2},
		{"a host name with a dot", "p2", "a.b", 2},
		{"the controller's name", "p2", "Controller", 2},
	} {
		if id, err := s.Target(test.name, test.slot, test.hostname); err == nil {
			t.Errorf("%s: gave %v", test.summary, id)
		}
	}
	for _, cluster := range []string{"", "a/b", "Home", "a b"} {
		if _, err := identity.Open(filepath.Join(t.TempDir(), "identity"), cluster); err == nil {
			t.Errorf("cluster %q was taken", cluster)
		}
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[filepath.ToSlash(name)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func names(files map[string]string) []string {
	var list []string
	for name := range files {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"format":1,"cluster":"homelab","secret":"` + strings.Repeat("ab", 32) + `"}`))
	f.Add([]byte(`{"format":1,"generation":7,"host_key":2}`))
	f.Add([]byte(`{"format":1,"generation":1e99,"host_key":-1}`))
	f.Add([]byte(`{"format":1,"cluster":"../..","secret":"zz"}`))
	f.Add([]byte("{}{}"))
	f.Add([]byte("null"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, data []byte) {
		if cluster, secret, err := identity.ParseRoot(data); err == nil && (cluster == "" || strings.ContainsAny(cluster, "/. ") || len(secret) != 32) {
			t.Errorf("took cluster %q with a secret of %d bytes", cluster, len(secret))
		}
		if generation, hostKey, err := identity.ParseTarget(data); err == nil && (generation < 1 || hostKey < 1 || generation > 1<<30 || hostKey > 1<<30) {
			t.Errorf("took generation %d, host key %d", generation, hostKey)
		}
	})
}

// TestHostKeyIsPlain reads the host key as sshd does.
func TestHostKeyIsPlain(t *testing.T) {
	id := get(t, open(t, filepath.Join(t.TempDir(), "identity")), "p9")
	signer, err := ssh.ParsePrivateKey(id.HostKey)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))); got != id.HostKeyPublic {
		t.Errorf("%s, want %s", got, id.HostKeyPublic)
	}
}

// TestNamesThereAndBack: a certificate that is issued again for the names it
// had before is the same to the byte, so that a host name changed and changed
// back gives the image it gave before.
func TestNamesThereAndBack(t *testing.T) {
	store, err := identity.Open(filepath.Join(t.TempDir(), "identity"), "homelab")
	if err != nil {
		t.Fatal(err)
	}
	var certificates []string
	for _, hostname := range []string{"p2", "carter", "p2"} {
		id, err := store.Target("p2", 2, hostname)
		if err != nil {
			t.Fatal(err)
		}
		certificates = append(certificates, string(id.Certificate))
	}
	if certificates[0] == certificates[1] {
		t.Error("another host name gave the same certificate")
	}
	if certificates[0] != certificates[2] {
		t.Error("the same host name gave another certificate")
	}
}

// TestControllers has what is a controller's own where there are several: its
// name, its certificate's, which is for the address where the others find it, and
// its disk.
func TestControllers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	open := func(second string) (*identity.Store, map[string]*identity.Identity) {
		s, err := identity.Open(dir, "homelab")
		if err != nil {
			t.Fatal(err)
		}
		s.Reached("controller2", netip.MustParseAddr(second))
		ids := map[string]*identity.Identity{}
		for _, name := range []string{"controller", "controller2", "controller3"} {
			if ids[name], err = s.Target(name, 0, name); err != nil {
				t.Fatal(err)
			}
		}
		return s, ids
	}
	s, ids := open("192.168.42.12")
	names := map[string]string{}
	for name, id := range ids {
		block, _ := pem.Decode(id.Certificate)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		names[name] = fmt.Sprintf("%v%v%v%v", c.URIs[0], c.IPAddresses, s.MachineID(name) != s.MachineID("controller"), s.DiskID(name) != s.DiskID("controller"))
	}
	want := map[string]string{
		"controller":  "hatchery://homelab/slot/0/generation/1[172.19.181.254]falsefalse",
		"controller2": "hatchery://homelab/controller/2/generation/1[172.19.181.254 192.168.42.12]truetrue",
		"controller3": "hatchery://homelab/controller/3/generation/1[172.19.181.254]truetrue",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	_, again := open("192.168.42.12")
	_, moved := open("192.168.42.22")
	if !bytes.Equal(again["controller2"].Certificate, ids["controller2"].Certificate) {
		t.Error("the same addresses give another certificate")
	}
	if bytes.Equal(moved["controller2"].Certificate, ids["controller2"].Certificate) || !bytes.Equal(moved["controller2"].Key, ids["controller2"].Key) {
		t.Error("another address does not change the certificate, or more than that")
	}
	for _, name := range []string{"controller1", "controller8", "controller02", "controllers"} {
		if _, err := s.Target(name, 0, "x"); err == nil {
			t.Errorf("%s is a target", name)
		}
	}
}

// TestVersionsKey: it is the cluster's, the same at every build, and another one in
// another folder.
func TestVersionsKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	s := open(t, dir)
	key := s.VersionsKey()
	if len(key) != 32 || !bytes.Equal(key, open(t, dir).VersionsKey()) {
		t.Errorf("it is %d bytes, or another the second time", len(key))
	}
	if bytes.Equal(key, open(t, filepath.Join(t.TempDir(), "identity")).VersionsKey()) {
		t.Error("another cluster has the same")
	}
}
