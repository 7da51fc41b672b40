package enrol_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/identity"
)

func TestLoadIdentity(t *testing.T) {
	homelab := enroltest.NewCluster(t, "homelab")
	p2, p3, other := homelab.Files(t, 2), homelab.Files(t, 3), enroltest.NewCluster(t, "other").Files(t, 2)
	wide, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(wide)
	if err != nil {
		t.Fatal(err)
	}
	p384 := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})

	for _, test := range []struct {
		summary              string
		key, certificate, ca []byte
		want                 string // "" for none
	}{
		{"a slot's", p2.Key, p2.Certificate, p2.CA, ""},
		{"two authorities, while one follows the other", p2.Key, p2.Certificate, append(bytes.Clone(other.CA), p2.CA...), ""},
		{"no key", nil, p2.Certificate, p2.CA, "key.pem"},
		{"no certificate", p2.Key, nil, p2.CA, "certificate.pem"},
		{"no authority", p2.Key, p2.Certificate, nil, "ca.pem"},
		{"another slot's key", p3.Key, p2.Certificate, p2.CA, "private key does not match"},
		{"a key of another kind", p384, p2.Certificate, p2.CA, "key.pem"},
		{"another cluster's authority", p2.Key, p2.Certificate, other.CA, "is not signed by the authority in ca.pem"},
		{"a slot for the authority", p2.Key, p2.Certificate, p3.Certificate, "not an authority's"},
		{"a key among the authorities", p2.Key, p2.Certificate, append(bytes.Clone(p2.CA), p2.Key...), "only certificates belong there"},
		{"an authority that is none", p2.Key, p2.Certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "ca.pem"},
		{"a huge authority", p2.Key, p2.Certificate, bytes.Repeat(p2.CA, 1000), "more than"},
		{"the authority's own certificate", p2.Key, p2.CA, p2.CA, "private key does not match"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range map[string][]byte{"key.pem": test.key, "certificate.pem": test.certificate, "ca.pem": test.ca} {
				if data == nil {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			id, err := enrol.LoadIdentity(dir)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "build the image again") {
					t.Fatalf("error %v; want one with %q and the remedy", err, test.want)
				}
				if bytes.Contains([]byte(err.Error()), p2.Key[40:80]) {
					t.Error("the error holds the key")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := id.Peer.String(); got != "p2, generation 1 of homelab" {
				t.Errorf("peer %s", got)
			}
			if !id.Key().PublicKey.Equal(id.Certificate.Leaf.PublicKey) {
				t.Error("the key is not the certificate's")
			}
			var log bytes.Buffer
			slog.New(slog.NewTextHandler(&log, nil)).Info("x", "id", id, "value", *id)
			printed := fmt.Sprintf("%v %+v %#v %s %v %+v %#v ", id, id, id, id, *id, *id, *id) + log.String()
			if want := "identity of p2, generation 1 of homelab"; strings.Count(printed, want) != 9 ||
				strings.Contains(printed, scalar(t, id)) {
				t.Errorf("printed as %s", printed)
			}
		})
	}
}

// scalar is the key's secret number as fmt prints it.
func scalar(t *testing.T, id *enrol.Identity) string {
	t.Helper()
	secret, err := id.Key().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return new(big.Int).SetBytes(secret).String()
}

func TestPeerOf(t *testing.T) {
	for _, test := range []struct {
		summary string
		uris    []string
		want    string // "" for an error
	}{
		{"a slot", []string{"hatchery://homelab/slot/2/generation/7"}, "p2, generation 7 of homelab"},
		{"the controller", []string{"hatchery://homelab/slot/0/generation/1"}, "controller, generation 1 of homelab"},
		{"another controller", []string{"hatchery://homelab/controller/2/generation/3"}, "controller2, generation 3 of homelab"},
		{"the first controller under the others' name", []string{"hatchery://homelab/controller/1/generation/3"}, ""},
		{"no such controller", []string{"hatchery://homelab/controller/0/generation/3"}, ""},
		{"the last slot", []string{"hatchery://homelab/slot/252/generation/1073741824"}, "p252, generation 1073741824 of homelab"},
		{"none", nil, ""},
		{"two", []string{"hatchery://homelab/slot/2/generation/7", "hatchery://homelab/slot/0/generation/1"}, ""},
		{"the same twice", []string{"hatchery://homelab/slot/2/generation/7", "hatchery://homelab/slot/2/generation/7"}, ""},
		{"no such slot", []string{"hatchery://homelab/slot/253/generation/1"}, ""},
		{"a slot below 0", []string{"hatchery://homelab/slot/-1/generation/1"}, ""},
		{"no such generation", []string{"hatchery://homelab/slot/2/generation/0"}, ""},
		{"too many generations", []string{"hatchery://homelab/slot/2/generation/1073741825"}, ""},
		{"a number beyond all", []string{"hatchery://homelab/slot/2/generation/99999999999999999999"}, ""},
		{"another spelling of a number", []string{"hatchery://homelab/slot/02/generation/7"}, ""},
		{"a sign", []string{"hatchery://homelab/slot/+2/generation/7"}, ""},
		{"more behind", []string{"hatchery://homelab/slot/2/generation/7/"}, ""},
		{"less", []string{"hatchery://homelab/slot/2"}, ""},
		{"a query", []string{"hatchery://homelab/slot/2/generation/7?slot=0"}, ""},
		{"a fragment", []string{"hatchery://homelab/slot/2/generation/7#x"}, ""},
		{"a user", []string{"hatchery://me@homelab/slot/2/generation/7"}, ""},
		{"an escaped path", []string{"hatchery://homelab/slot/%32/generation/7"}, ""},
		{"no cluster", []string{"hatchery:///slot/2/generation/7"}, ""},
		{"another scheme", []string{"https://homelab/slot/2/generation/7"}, ""},
		{"another case", []string{"HATCHERY://homelab/slot/2/generation/7"}, "p2, generation 7 of homelab"}, // net/url lowers it before anybody sees it
		{"no path", []string{"hatchery:homelab"}, ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			c := new(x509.Certificate)
			for _, text := range test.uris {
				u, err := url.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
			p, err := enrol.PeerOf(c)
			if test.want == "" && err == nil {
				t.Errorf("taken for %s", p)
			}
			if test.want != "" && (err != nil || p.String() != test.want) {
				t.Errorf("%s, %v", p, err)
			}
		})
	}
}

// TestPeerOfBuilt reads what the builder writes, for every slot.
func TestPeerOfBuilt(t *testing.T) {
	for slot := 0; slot <= clusterctrl.MaxSlot; slot++ {
		c := &x509.Certificate{URIs: []*url.URL{identity.TargetURI("home-lab.1", slot, 3)}}
		if p, err := enrol.PeerOf(c); err != nil || p != (enrol.Peer{Cluster: "home-lab.1", Slot: slot, Generation: 3}) {
			t.Errorf("slot %d: %+v, %v", slot, p, err)
		}
	}
	c := enroltest.NewCluster(t, "homelab")
	before := c.Slot(t, 2).Peer
	files, err := c.Store.Renew("p2", 2, "hostp2")
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := enrol.NewIdentity(files.Key, files.Certificate, files.CA)
	if err != nil {
		t.Fatal(err)
	}
	after := renewed.Peer
	if before.Generation != 1 || after.Generation != 2 || before.Serial == after.Serial || before.Serial == "" {
		t.Errorf("%+v, renewed %+v", before, after)
	}
}

func FuzzPeerOf(f *testing.F) {
	far := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	a := enroltest.NewAuthority(f, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), far)
	for _, uri := range []string{"hatchery://homelab/slot/2/generation/7", "hatchery://homelab/slot/2%30/generation/7?x"} {
		parsed, err := url.Parse(uri)
		if err != nil {
			f.Fatal(err)
		}
		_, certificate, _ := a.Issue(f, parsed, clusterctrl.SlotAddr(2), nil)
		block, _ := pem.Decode(certificate)
		f.Add(block.Bytes, uri)
	}
	f.Fuzz(func(t *testing.T, der []byte, uri string) {
		check := func(c *x509.Certificate) {
			p, err := enrol.PeerOf(c)
			if err != nil {
				return
			}
			want := fmt.Sprintf("hatchery://%s/slot/%d/generation/%d", p.Cluster, p.Slot, p.Generation)
			if len(c.URIs) != 1 || c.URIs[0].String() != want || p.Slot < 0 || p.Slot > clusterctrl.MaxSlot || p.Generation < 1 {
				t.Errorf("%v is taken for %+v", c.URIs, p)
			}
		}
		if c, err := x509.ParseCertificate(der); err == nil {
			check(c)
		}
		if u, err := url.Parse(uri); err == nil {
			check(&x509.Certificate{URIs: []*url.URL{u}})
		}
	})
}
