package nodetest

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// A vlanSwitch joins two of QEMU's network back ends (datagrams of frames):
// what the node sends with the tag of VLAN 10 goes to the other side without,
// and the other way round. What has no tag goes nowhere, as on the controller,
// where another bridge has it.
type vlanSwitch struct {
	node, plain *net.UnixConn
	dir         string
	untagged    atomic.Int64
	pulled      atomic.Bool // nothing goes through
}

const vlan = 10

func newSwitch(t testing.TB) *vlanSwitch {
	t.Helper()
	dir, err := os.MkdirTemp("", "switch") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	s := &vlanSwitch{dir: dir}
	listen := func(name string) *net.UnixConn {
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	s.node, s.plain = listen("node.here"), listen("plain.here")
	t.Cleanup(func() {
		s.node.Close()
		s.plain.Close()
		os.RemoveAll(dir)
	})
	go s.carry(s.node, s.plain, "plain.qemu", func(frame []byte) []byte {
		if len(frame) < 18 || binary.BigEndian.Uint16(frame[12:]) != 0x8100 {
			s.untagged.Add(1)
			return nil
		}
		if binary.BigEndian.Uint16(frame[14:])&0xfff != vlan {
			return nil
		}
		return append(append([]byte(nil), frame[:12]...), frame[16:]...)
	})
	go s.carry(s.plain, s.node, "node.qemu", func(frame []byte) []byte {
		if len(frame) < 14 {
			return nil
		}
		tagged := append([]byte(nil), frame[:12]...)
		return append(append(tagged, 0x81, 0, 0, vlan), frame[12:]...)
	})
	return s
}

func (s *vlanSwitch) carry(from, to *net.UnixConn, name string, change func([]byte) []byte) {
	peer := &net.UnixAddr{Name: filepath.Join(s.dir, name), Net: "unixgram"}
	for frame := make([]byte, 64<<10); ; {
		n, err := from.Read(frame)
		if err != nil {
			return
		}
		if s.pulled.Load() {
			continue
		}
		if out := change(frame[:n]); out != nil {
			to.WriteTo(out, peer) // where QEMU is not (any more), it is lost
		}
	}
}

// arguments are QEMU's for one side: its back end's name and sockets.
func (s *vlanSwitch) arguments(id, side string) string {
	return "dgram,id=" + id + ",local.type=unix,local.path=" + filepath.Join(s.dir, side+".qemu") +
		",remote.type=unix,remote.path=" + filepath.Join(s.dir, side+".here")
}
