//go:build linux

package systemd_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// A peer plays systemd on a socket, as far as the agent speaks to it: jobs of
// units, and their properties. The wire format is godbus's.
type peer struct {
	t      *testing.T
	socket string

	mu    sync.Mutex
	conns []*peerConn
	jobs  uint32
	units map[string]map[string]any // by name; "Interface.Property"
	// start answers StartUnit and StopUnit: with a job's result,
	// or "" for a job that does not end, or an error's name.
	start func(p *peer, verb, unit string) (result, refused string)
	calls []string
}

type peerConn struct {
	net.Conn
	mu     sync.Mutex
	serial uint32
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	p := &peer{t: t, socket: filepath.Join(t.TempDir(), "private"), units: make(map[string]map[string]any)}
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		p.drop()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			pc := &peerConn{Conn: c}
			p.mu.Lock()
			p.conns = append(p.conns, pc)
			p.mu.Unlock()
			go p.serve(pc)
		}
	}()
	return p
}

// drop closes all connections, as systemd does when it is replaced.
func (p *peer) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// asked is what jobs systemd was asked for.
func (p *peer) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

func (p *peer) serve(c *peerConn) {
	in := bufio.NewReader(c)
	if b, err := in.ReadByte(); err != nil || b != 0 {
		return
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		answer := ""
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case word == "BEGIN":
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			answer = "DATA\r\n" // as sd-bus asks who was not told along
		case word == "DATA":
			answer = "OK 0123456789abcdef0123456789abcdef\r\n"
		case word == "AUTH":
			answer = "REJECTED EXTERNAL\r\n"
		case word == "NEGOTIATE_UNIX_FD":
			answer = "AGREE_UNIX_FD\r\n"
		default:
			answer = "ERROR\r\n"
		}
		if answer == "" {
			break
		}
		if _, err := c.Write([]byte(answer)); err != nil {
			return
		}
	}
	for {
		m, err := godbus.DecodeMessage(in)
		if err != nil {
			return
		}
		p.answer(c, m)
	}
}

func header(m *godbus.Message, field godbus.HeaderField) string {
	v, ok := m.Headers[field]
	if !ok {
		return ""
	}
	switch s := v.Value().(type) {
	case string:
		return s
	case godbus.ObjectPath:
		return string(s)
	}
	return ""
}

func (p *peer) answer(c *peerConn, m *godbus.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	member := header(m, godbus.FieldMember)
	switch member {
	case "StartUnit", "StopUnit":
		unit := m.Body[0].(string)
		p.calls = append(p.calls, member+" "+unit+" "+m.Body[1].(string))
		result, refused := p.start(p, member, unit)
		if refused != "" {
			c.send(m, godbus.TypeError, map[godbus.HeaderField]godbus.Variant{godbus.FieldErrorName: godbus.MakeVariant(refused)}, "Unit "+unit+" not found.")
			return
		}
		p.jobs++
		path := godbus.ObjectPath("/org/freedesktop/systemd1/job/" + string(rune('0'+p.jobs)))
		c.send(m, godbus.TypeMethodReply, nil, path)
		if result == "" {
			return
		}
		for _, o := range p.conns {
			o.send(nil, godbus.TypeSignal, map[godbus.HeaderField]godbus.Variant{
				godbus.FieldPath:      godbus.MakeVariant(godbus.ObjectPath("/org/freedesktop/systemd1")),
				godbus.FieldInterface: godbus.MakeVariant("org.freedesktop.systemd1.Manager"),
				godbus.FieldMember:    godbus.MakeVariant("JobRemoved"),
			}, p.jobs, path, unit, result)
		}
	case "Get":
		iface := strings.TrimPrefix(m.Body[0].(string), "org.freedesktop.systemd1.")
		for name, properties := range p.units {
			if header(m, godbus.FieldPath) != "/org/freedesktop/systemd1/unit/"+dbus.PathBusEscape(name) {
				continue
			}
			if v, ok := properties[iface+"."+m.Body[1].(string)]; ok {
				c.send(m, godbus.TypeMethodReply, nil, godbus.MakeVariant(v))
				return
			}
		}
		c.send(m, godbus.TypeError, map[godbus.HeaderField]godbus.Variant{
			godbus.FieldErrorName: godbus.MakeVariant("org.freedesktop.DBus.Error.UnknownProperty"),
		}, "Unknown property "+m.Body[1].(string))
	default: // AddMatch
		c.send(m, godbus.TypeMethodReply, nil)
	}
}

// send sends a message: an answer to one, or a signal.
func (c *peerConn) send(to *godbus.Message, kind godbus.Type, headers map[godbus.HeaderField]godbus.Variant, body ...any) {
	if headers == nil {
		headers = make(map[godbus.HeaderField]godbus.Variant)
	}
	if to != nil {
		headers[godbus.FieldReplySerial] = godbus.MakeVariant(to.Serial())
	}
	if len(body) > 0 {
		headers[godbus.FieldSignature] = godbus.MakeVariant(godbus.SignatureOf(body...))
	}
	var b bytes.Buffer
	if err := (&godbus.Message{Type: kind, Headers: headers, Body: body}).EncodeTo(&b, binary.LittleEndian); err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// godbus counts serials in its connections only; in the format it stands
	// behind the four bytes of the kind and the length of the body.
	c.serial++
	binary.LittleEndian.PutUint32(b.Bytes()[8:], c.serial)
	_, _ = c.Write(b.Bytes())
}
