package nbd_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/netboot/nbd"
)

// TestTakeover: the newer connection gets the export, when the older one is
// done with it.
func TestTakeover(t *testing.T) {
	device := newRAM(mib)
	entered, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	device.fail = func(what string, off int64) error {
		if what == "write" && off == 4096 {
			once.Do(func() { close(entered); <-gate })
		}
		return nil
	}
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: device}, "ro": {Name: "ro", Device: device, ReadOnly: true}})
	old := s.dial()
	old.enter("p1")
	s.event()
	old.request(0, write, 1, 4096, 4096, pattern(4096, 1))
	<-entered
	// To ask about it takes nothing over.
	asking := s.dial()
	if kind, _ := asking.option(optInfo, 2, "p1", uint16(0)); kind != repAck {
		t.Errorf("INFO: %#x", kind)
	}
	// The second and third wait for the first, whose write is under way.
	second := s.dial()
	second.put("IHAVEOPT", uint32(optGo), uint32(8), 2, "p1", uint16(0))
	old.ends()
	third := s.dial()
	third.put("IHAVEOPT", uint32(optGo), uint32(8), 2, "p1", uint16(0))
	second.ends()
	_ = third.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := third.Read(make([]byte, 1)); err == nil || n != 0 {
		t.Error("the new connection was answered before the old one's write was done")
	}
	_ = third.SetReadDeadline(time.Now().Add(patience))
	close(gate)
	if kind, _ := third.replies(optGo); kind != repAck {
		t.Fatalf("GO: %#x", kind)
	}
	if e := s.event(); e.Kind != nbd.Disconnected || !errors.Is(e.Reason, nbd.ErrReplaced) {
		t.Errorf("event %+v", e)
	}
	if e := s.event(); e.Kind != nbd.Connected {
		t.Errorf("event %+v", e)
	}
	third.request(0, read, 2, 4096, 4096)
	_, got := third.answer(2, 4096)
	equal(t, "what the old one wrote", got, pattern(4096, 1))
	// Those that only read are as many as come.
	a, b := s.dial(), s.dial()
	a.enter("ro")
	b.enter("ro")
	if e1, e2 := a.do(0, read, 0, 1), b.do(0, read, 0, 1); e1 != 0 || e2 != 0 {
		t.Errorf("errors %d, %d", e1, e2)
	}
	if c := s.server.Counters()["ro"]; c.Connections != 2 || c.Opened != 2 || c.Reads != 2 || c.BytesRead != 2 {
		t.Errorf("counters %+v", c)
	}
}

// TestDrain: at the end what is under way is answered, and nothing is answered
// with an error because of it.
func TestDrain(t *testing.T) {
	device := newRAM(mib)
	entered, gate := make(chan struct{}), make(chan struct{})
	device.fail = func(what string, _ int64) error {
		if what == "write" {
			close(entered)
			<-gate
		}
		return nil
	}
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: device}})
	p, shaking := s.dial(), s.dial()
	p.enter("p1")
	s.event()
	p.request(0, write, 1, 4096, 4096, pattern(4096, 1))
	<-entered
	s.stop()
	shaking.ends()
	// The connections are told and the listener is closed beside one another.
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial(s.network, s.addr)
		if err != nil {
			break
		}
		c.Close()
		if time.Since(began) > patience {
			t.Fatal("it still listens")
		}
	}
	close(gate)
	if e, _ := p.answer(1, 0); e != 0 {
		t.Errorf("error %d", e)
	}
	p.ends()
	if e := s.event(); !errors.Is(e.Reason, nbd.ErrShutdown) {
		t.Errorf("event %+v", e)
	}
	if err := <-s.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	close(s.served)
}

// TestDrainEnds: a device that does not come back is waited for, but no client.
func TestDrainEnds(t *testing.T) {
	device := newRAM(mib)
	gate := make(chan struct{})
	device.fail = func(string, int64) error { <-gate; return nil }
	s := newSite(t, &nbd.Server{Drain: 50 * time.Millisecond}, exports{"p1": {Name: "p1", Device: device}})
	p := s.dial()
	p.enter("p1")
	p.request(0, read, 1, 0, 512)
	for began := time.Now(); device.running.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("no read")
		}
	}
	s.stop()
	p.ends()
	close(gate)
}

func TestDisconnect(t *testing.T) {
	device := newRAM(mib)
	s := newSite(t, &nbd.Server{}, exports{"p1": {Name: "p1", Device: device}, "p2": {Name: "p2", Device: device}})
	p, q := s.dial(), s.dial()
	p.enter("p1")
	q.enter("p2")
	s.event()
	s.event()
	reason := errors.New("the slot is reset")
	if err := s.server.Disconnect(t.Context(), "p1", reason); err != nil {
		t.Fatal(err)
	}
	p.ends()
	if e := s.event(); e.Kind != nbd.Disconnected || e.Export != "p1" || !errors.Is(e.Reason, reason) {
		t.Errorf("event %+v", e)
	}
	s.mu.Lock()
	if s.closed["p1"] != s.opened["p1"] {
		t.Error("it is not closed")
	}
	s.mu.Unlock()
	if e := q.do(0, read, 0, 512); e != 0 {
		t.Errorf("the other one: error %d", e)
	}
}

// TestLimits: too many are turned away, a handshake ends, and who does not take
// his answers is cut off.
func TestLimits(t *testing.T) {
	t.Run("in all", func(t *testing.T) {
		s := newSite(t, &nbd.Server{MaxConnections: 2}, exports{"p1": {Name: "p1", Device: newRAM(mib), Shared: true}})
		a := s.dial()
		s.dial().enter("p1")
		s.dialRaw().ends()
		a.Close()
		// Its place is free in a moment.
		for began := time.Now(); ; time.Sleep(time.Millisecond) {
			p := s.dialRaw()
			if _, err := p.Read(make([]byte, 18)); err == nil {
				break
			}
			if time.Since(began) > patience {
				t.Fatal("its place is not free again")
			}
		}
	})
	t.Run("of a peer", func(t *testing.T) {
		s := newSiteOn(t, &nbd.Server{MaxPerPeer: 1}, exports{"p1": {Name: "p1", Device: newRAM(mib)}}, "tcp", "127.0.0.1:0")
		p := s.dial()
		s.dialRaw().ends()
		p.enter("p1")
		if e := s.event(); e.Peer.Addr.String() != p.LocalAddr().String() {
			t.Errorf("event %+v, of %v", e, p.LocalAddr())
		}
	})
	t.Run("a handshake", func(t *testing.T) {
		// Long enough for the server's own greeting.
		s := newSite(t, &nbd.Server{Handshake: 500 * time.Millisecond}, exports{"p1": {Name: "p1", Device: newRAM(mib)}})
		p := s.dialRaw() // what it says could come too late
		p.get(18)
		p.ends()
	})
	t.Run("answers that nobody takes", func(t *testing.T) {
		s := newSite(t, &nbd.Server{Stall: 50 * time.Millisecond}, exports{"p1": {Name: "p1", Device: newRAM(32 * mib)}})
		p := s.dial()
		p.enter("p1")
		s.event()
		for i := range uint64(4) {
			p.request(0, read, i, 0, 32*mib)
		}
		if e := s.event(); !errors.Is(e.Reason, nbd.ErrStalled) {
			t.Errorf("event %+v", e)
		}
	})
	t.Run("data that does not come", func(t *testing.T) {
		s := newSite(t, &nbd.Server{Stall: 50 * time.Millisecond}, exports{"p1": {Name: "p1", Device: newRAM(mib)}})
		p := s.dial()
		p.enter("p1")
		s.event()
		p.request(0, write, 1, 0, mib, "x")
		if e := s.event(); !errors.Is(e.Reason, nbd.ErrStalled) {
			t.Errorf("event %+v", e)
		}
	})
	t.Run("but silence is no stall", func(t *testing.T) {
		// Long enough for a handshake on a machine that does much else.
		const limit = 2 * time.Second
		s := newSite(t, &nbd.Server{Stall: limit, Handshake: limit}, exports{"p1": {Name: "p1", Device: newRAM(mib)}, "p2": {Name: "p2", Device: newRAM(mib)}})
		p, fresh := s.dial(), s.dial()
		p.enter("p1")
		fresh.enter("p2")
		if e := p.do(0, write, 0, mib, make([]byte, mib)); e != 0 {
			t.Errorf("error %d", e)
		}
		time.Sleep(limit + limit/4)
		for _, p := range []*peer{p, fresh} {
			if e := p.do(0, read, 0, 512); e != 0 {
				t.Errorf("error %d", e)
			}
		}
	})
}

// TestMemory: a connection whose answers nobody takes holds no more than it
// may, and holds up nobody else even where it has all that is shared.
func TestMemory(t *testing.T) {
	device := newRAM(32 * mib)
	s := newSite(t, &nbd.Server{Memory: 2 * mib}, exports{"p1": {Name: "p1", Device: device, Shared: true}})
	hog := s.dial()
	hog.enter("p1")
	for i := range uint64(40) {
		hog.request(0, read, i, 0, 256<<10)
	}
	for _, length := range []uint32{512, 256 << 10, mib, 5 * mib, 32 * mib} {
		p := s.dial()
		p.enter("p1")
		if e := p.do(0, write, 0, length, make([]byte, length)); e != 0 {
			t.Errorf("write: error %d", e)
		}
		p.request(0, read, 1, 0, length)
		if e, got := p.answer(1, int(length)); e != 0 || !bytes.Equal(got, make([]byte, length)) {
			t.Errorf("read: error %d", e)
		}
		p.Close()
	}
	// Once it takes them, it has them all.
	seen := map[uint64]bool{}
	for range 40 {
		h := hog.get(16)
		seen[be.Uint64(h[8:])] = true
		hog.get(256 << 10)
	}
	if len(seen) != 40 {
		t.Errorf("%d answers", len(seen))
	}
}

// TestModel: random requests of several connections at once, each in its part
// of the device, against a slice of bytes.
func TestModel(t *testing.T) {
	const part, parts = 2*mib + 1000, 4
	for _, shape := range []string{"simple", "structured", "little memory", "tls"} {
		t.Run(shape, func(t *testing.T) {
			device := newRAM(part * parts)
			// Slow now and then, so that requests pass each other.
			device.fail = func(string, int64) error {
				if mathrand.N(20) == 0 {
					time.Sleep(time.Duration(mathrand.N(1000)) * time.Microsecond)
				}
				return nil
			}
			server := &nbd.Server{}
			var certs *certificates
			if shape == "little memory" {
				server.Memory = 1
			}
			if shape == "tls" {
				certs = newCertificates(t)
				server.TLS = certs.server
			}
			s := newSite(t, server, exports{"p1": {Name: "p1", Device: device, Shared: true}})
			models := make([][]byte, parts)
			var clients sync.WaitGroup
			for i := range parts {
				models[i] = make([]byte, part)
				p := s.dial()
				if certs != nil {
					p.startTLS(certs.client)
				}
				if shape == "structured" {
					p.structure()
				}
				p.enter("p1")
				clients.Go(func() { play(p, mathrand.New(mathrand.NewPCG(1, uint64(i))), uint64(i)*part, models[i]) })
			}
			clients.Wait()
			for i, model := range models {
				equal(t, fmt.Sprintf("part %d", i), device.data[i*part:(i+1)*part], model)
			}
			if n := device.running.Load(); n != 0 {
				t.Errorf("%d requests are still running", n)
			}
			if device.mostRuns.Load() < 2 {
				t.Error("nothing ran beside anything")
			}
		})
	}
}

// play sends batches of requests that do not overlap, and checks what is read.
func play(p *peer, r *mathrand.Rand, base uint64, model []byte) {
	type asked struct {
		kind uint16
		off  int
		n    int
		want []byte
	}
	for range 20 {
		batch := map[uint64]asked{}
		var out []byte
		at := 0
		for cookie := uint64(1); cookie <= 12 && at < len(model); cookie++ {
			at += r.IntN(200000)
			n := []int{1 + r.IntN(5000), 4096, 1 + r.IntN(600000), 0}[r.IntN(4)]
			if at+n > len(model) {
				break
			}
			a := asked{off: at, n: n}
			var data []byte
			flags := uint16(0)
			switch r.IntN(5) {
			case 0, 1:
				a.kind, a.want = read, bytes.Clone(model[at:at+n])
			case 2, 3:
				a.kind, data = write, pattern(n, byte(r.Uint32()))
				copy(model[at:], data)
				if r.IntN(5) == 0 {
					flags = fua
				}
			case 4:
				a.kind = []uint16{trim, writeZeroes}[r.IntN(2)]
				if a.kind == writeZeroes && r.IntN(2) == 0 {
					flags = noHole
				}
				clear(model[at : at+n])
			}
			batch[cookie] = a
			out = append(out, join(uint32(0x25609513), flags, a.kind, cookie, base+uint64(at), uint32(n), data)...)
			at += n
		}
		sent := make(chan error, 1)
		go func() {
			_, err := p.Write(out)
			sent <- err
		}()
		for len(batch) > 0 {
			magic := p.get(4)
			if be.Uint32(magic) == 0x67446698 {
				h := p.get(12)
				cookie := be.Uint64(h[4:])
				a := batch[cookie]
				delete(batch, cookie)
				if e := be.Uint32(h); e != 0 {
					p.t.Errorf("command %d: error %d", a.kind, e)
					continue
				}
				if a.kind == read && !p.structured {
					equal(p.t, "read", p.get(a.n), a.want)
				}
				continue
			}
			h := p.get(16)
			cookie := be.Uint64(h[4:])
			a := batch[cookie]
			data := p.get(int(be.Uint32(h[12:])))
			switch be.Uint16(h[2:]) {
			case 1:
				off := int(be.Uint64(data)-base) - a.off
				equal(p.t, "chunk", data[8:], a.want[off:off+len(data)-8])
			case 2:
				off := int(be.Uint64(data)-base) - a.off
				n := int(be.Uint32(data[8:]))
				equal(p.t, "hole", make([]byte, n), a.want[off:off+n])
			case 0:
			default:
				p.t.Errorf("a chunk of kind %d", be.Uint16(h[2:]))
			}
			if be.Uint16(h)&1 != 0 {
				delete(batch, cookie)
			}
		}
		if err := <-sent; err != nil {
			p.t.Error(err)
			return
		}
	}
}

// certificates are those of a cluster, for tests.
type certificates struct {
	server, client *tls.Config
	stranger       *tls.Config // of another cluster
	dir            string      // ca-cert.pem, client-cert.pem, client-key.pem as libnbd and qemu want them
}

func newCertificates(t testing.TB) *certificates {
	t.Helper()
	dir := t.TempDir()
	ca := func(name string) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sign := func(ca *x509.Certificate, key *ecdsa.PrivateKey, name string, usage x509.ExtKeyUsage) tls.Certificate {
		mine, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost", name},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
		der, err := x509.CreateCertificate(rand.Reader, template, ca, mine.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(mine)
		if err != nil {
			t.Fatal(err)
		}
		write(name+"-cert.pem", "CERTIFICATE", der)
		write(name+"-key.pem", "PRIVATE KEY", pkcs8)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: mine}
	}
	ours, key := ca("cluster")
	others, otherKey := ca("other")
	write("ca-cert.pem", "CERTIFICATE", ours.Raw)
	pool := x509.NewCertPool()
	pool.AddCert(ours)
	c := &certificates{dir: dir}
	stranger := sign(others, otherKey, "stranger", x509.ExtKeyUsageClientAuth)
	c.server = &tls.Config{Certificates: []tls.Certificate{sign(ours, key, "server", x509.ExtKeyUsageServerAuth)}, ClientCAs: pool}
	c.client = &tls.Config{Certificates: []tls.Certificate{sign(ours, key, "client", x509.ExtKeyUsageClientAuth)}, RootCAs: pool, ServerName: "localhost"}
	c.stranger = &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }, RootCAs: pool, ServerName: "localhost"}
	return c
}

// startTLS goes on with TLS.
func (p *peer) startTLS(config *tls.Config) {
	p.t.Helper()
	if kind, _ := p.option(optStartTLS); kind != repAck {
		p.t.Fatalf("STARTTLS: %#x", kind)
	}
	p.Conn = tls.Client(p.Conn, config)
}

func TestTLS(t *testing.T) {
	certs := newCertificates(t)
	s := newSite(t, &nbd.Server{TLS: certs.server, TLSOnly: true}, exports{"p1": {Name: "p1", Device: newRAM(mib)}})
	p := s.dial()
	for _, opt := range []uint32{optGo, optInfo, optList, optStructured, optSetMeta, 99} {
		if kind, _ := p.option(opt, 2, "p1", uint16(0)); kind != errTLSReqd {
			t.Errorf("option %d without TLS: %#x", opt, kind)
		}
	}
	p.startTLS(certs.client)
	if kind, _ := p.option(optStartTLS); kind != errInvalid {
		t.Errorf("TLS twice: %#x", kind)
	}
	p.enter("p1")
	if e := s.event(); e.Kind != nbd.Connected || !e.TLS || e.Peer.Certificate == nil || e.Peer.Certificate.Subject.CommonName != "client" {
		t.Errorf("event %+v", e)
	}
	if e := p.do(0, write, 100, mib-100, pattern(mib-100, 1)); e != 0 {
		t.Errorf("write: %d", e)
	}
	p.request(0, read, 1, 100, mib-100)
	_, got := p.answer(1, mib-100)
	equal(t, "over TLS", got, pattern(mib-100, 1))
	if v := p.Conn.(*tls.Conn).ConnectionState().Version; v != tls.VersionTLS13 {
		t.Errorf("TLS version %#x", v)
	}
	p.request(0, disc, 0, 0, 0)
	p.ends() // with TLS' own goodbye, else reading fails
	s.event()

	old := certs.client.Clone()
	old.MaxVersion = tls.VersionTLS12
	nobody := certs.client.Clone()
	nobody.Certificates = nil
	for _, test := range []struct {
		summary string
		config  *tls.Config
	}{{"another cluster's", certs.stranger}, {"none", nobody}, {"TLS 1.2", old}} {
		p := s.dial()
		p.startTLS(test.config)
		_, err := p.Write(join("IHAVEOPT", uint32(optGo), uint32(8), 2, "p1", uint16(0)))
		if err == nil {
			_, err = p.Read(make([]byte, 20))
		}
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("certificate: %s: %v", test.summary, err)
		}
	}
	t.Run("an export by name without TLS", func(t *testing.T) {
		p := s.dial()
		p.put("IHAVEOPT", uint32(optExportName), uint32(2), "p1")
		p.ends()
	})
	t.Run("plain text after STARTTLS", func(t *testing.T) {
		p := s.dial()
		p.put("IHAVEOPT", uint32(optStartTLS), uint32(0), "IHAVEOPT", uint32(optGo), uint32(8), 2, "p1", uint16(0))
		p.ends()
	})
	select {
	case e := <-s.told:
		t.Errorf("event %+v", e)
	default:
	}
}

// TestTLSForgets: what was agreed on before TLS is void.
func TestTLSForgets(t *testing.T) {
	certs := newCertificates(t)
	s := newSite(t, &nbd.Server{TLS: certs.server}, exports{"p1": {Name: "p1", Device: newRAM(mib)}})
	p := s.dial().structure()
	p.startTLS(certs.client)
	if kind, _ := p.option(optSetMeta, 2, "p1", 0); kind != errInvalid {
		t.Errorf("SET_META_CONTEXT: %#x", kind)
	}
	if _, flags := p.enter("p1"); flags&(1<<7) != 0 {
		t.Errorf("flags %#x", flags)
	}
	if e := p.do(0, read, 0, 512); e != 0 { // a simple reply
		t.Errorf("error %d", e)
	}
}

func TestMisconfigured(t *testing.T) {
	for _, test := range []struct {
		summary string
		server  *nbd.Server
		want    string
	}{
		{"no exports", &nbd.Server{}, "no exports"},
		{"TLS without configuration", &nbd.Server{Exports: exports{}, TLSOnly: true}, "not configured"},
		{"TLS for everybody", &nbd.Server{Exports: exports{}, TLS: &tls.Config{}}, "ClientCAs"},
	} {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		if err := test.server.Serve(context.Background(), l); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.summary, err)
		}
	}
}

// TestAskedEarly: who asks a server for its counters, or to cut off an export, may do so
// while it begins to serve. The race detector judges.
func TestAskedEarly(t *testing.T) {
	s := &nbd.Server{Exports: exports{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	begin := make(chan struct{})
	for range 4 {
		asking.Go(func() {
			<-begin
			for range 100 {
				if n := len(s.Counters()); n != 0 {
					t.Errorf("%d exports were served", n)
				}
				if err := s.Disconnect(ctx, "p1", errors.New("because")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan error, 1)
	go func() { <-begin; done <- s.Serve(ctx, l) }()
	close(begin)
	asking.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
