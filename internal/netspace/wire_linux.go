package netspace

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Wire is a link as somebody has it who writes frames by hand, and hears all
// that comes.
type Wire struct {
	t     testing.TB
	fd    int
	index int

	mu    sync.Mutex
	heard [][]byte
}

// Tap opens a link of the namespace. What comes in on it is kept from now on until the
// test ends: those for others too, and none that the namespace sends.
// A bridge gives its own link what is for that, or for everybody; its ports give all.
func (s *Space) Tap(link string) *Wire {
	s.t.Helper()
	w := &Wire{t: s.t}
	err := s.Do(func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		w.index = i.Index
		all := int(htons(unix.ETH_P_ALL))
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: w.index}); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000})
	})
	if err != nil {
		s.t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		w.listen(done)
	}()
	s.t.Cleanup(func() {
		close(done)
		<-ended
		unix.Close(w.fd)
	})
	return w
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)}) }

func (w *Wire) listen(done <-chan struct{}) {
	buf := make([]byte, 1<<16)
	for {
		select {
		case <-done:
			return
		default:
		}
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			continue // nobody said anything
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		w.mu.Lock()
		w.heard = append(w.heard, slices.Clone(buf[:n]))
		w.mu.Unlock()
	}
}

// Heard are the frames that came so far.
func (w *Wire) Heard() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.heard)
}

// Send puts a frame on the wire.
func (w *Wire) Send(frame []byte) {
	w.t.Helper()
	if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index}); err != nil {
		w.t.Fatalf("sending a frame: %v", err)
	}
}

// Sends puts a frame on the wire some times: switches may still learn.
func (w *Wire) Sends(frame []byte) {
	w.t.Helper()
	for range 3 {
		w.Send(frame)
		time.Sleep(20 * time.Millisecond)
	}
}

// Types of frames.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeVLAN = 0x8100 // 802.1Q
	TypeQinQ = 0x88a8 // 802.1ad
	TypeIPv6 = 0x86dd
)

// A Tag is what marks a frame as one of a VLAN.
type Tag struct{ Type, ID uint16 }

// Frame makes an Ethernet frame.
func Frame(to, from string, kind uint16, payload []byte, tags ...Tag) []byte {
	f := append(mac(to), mac(from)...)
	for _, tag := range tags {
		f = binary.BigEndian.AppendUint16(f, tag.Type)
		f = binary.BigEndian.AppendUint16(f, tag.ID)
	}
	f = binary.BigEndian.AppendUint16(f, kind)
	f = append(f, payload...)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

// Everybody is the address of everybody on a wire.
const Everybody = "ff:ff:ff:ff:ff:ff"

func mac(s string) []byte {
	a, err := net.ParseMAC(s)
	if err != nil || len(a) != 6 {
		panic(fmt.Sprintf("%q is no MAC address", s))
	}
	return slices.Clone(a)
}

// ARP makes an ARP packet: op 1 asks, 2 answers.
func ARP(op uint16, fromMAC, from, toMAC, to string) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, byte(op >> 8), byte(op)}
	p = append(p, mac(fromMAC)...)
	p = append(p, netip.MustParseAddr(from).AsSlice()...)
	p = append(p, mac(toMAC)...)
	return append(p, netip.MustParseAddr(to).AsSlice()...)
}

// UDP makes an IP packet, of version 4 or 6 by the addresses, with a UDP datagram.
func UDP(from, to string, port uint16, data []byte) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	u := binary.BigEndian.AppendUint16(nil, 40000)
	u = binary.BigEndian.AppendUint16(u, port)
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(data)))
	u = append(append(u, 0, 0), data...)
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, 17, byte(len(u)>>8), byte(len(u)))
	sum := checksum(append(pseudo, u...))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(u[6:], sum)
	if src.Is6() {
		h := []byte{0x60, 0, 0, 0, byte(len(u) >> 8), byte(len(u)), 17, 255}
		h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
		return append(h, u...)
	}
	n := 20 + len(u)
	h := []byte{0x45, 0, byte(n >> 8), byte(n), 0, 7, 0, 0, 64, 17, 0, 0}
	h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, u...)
}

// checksum is the Internet's.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// SendersIn gives what of the frames is of a network's addresses: the sender's and the
// receiver's of IPv4, and both of ARP, whatever tags are before them.
func SendersIn(frames [][]byte, network netip.Prefix) []string {
	var found []string
	for _, f := range frames {
		if len(f) < 14 {
			continue
		}
		kind, rest := binary.BigEndian.Uint16(f[12:]), f[14:]
		for (kind == TypeVLAN || kind == TypeQinQ) && len(rest) >= 4 {
			kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
		}
		var places []int
		switch {
		case kind == TypeIPv4 && len(rest) >= 20:
			places = []int{12, 16}
		case kind == TypeARP && len(rest) >= 28:
			places = []int{14, 24}
		}
		for _, at := range places {
			if addr := netip.AddrFrom4([4]byte(rest[at : at+4])); network.Contains(addr) {
				found = append(found, fmt.Sprintf("%s in %x", addr, f[:min(len(f), 60)]))
				break
			}
		}
	}
	return found
}
