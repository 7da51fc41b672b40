package enrol

import (
	"net"
	"net/netip"
	"sync"
)

// Limits are how many connections there may be at a time before anybody is
// asked who he is: whoever reaches the port can open them, and each takes tens
// of kilobytes until its handshake has failed or its time is over.
type Limits struct {
	All        int // of everybody
	PerAddress int
	// Strangers is how many those addresses have together that Known does not
	// know: a single machine can have many addresses.
	Strangers int
	Known     func(netip.Addr) bool
}

// Gate is a listener that closes connections beyond its limits at once.
func Gate(l net.Listener, limits Limits) net.Listener {
	return &gate{Listener: l, limits: limits, perAddress: map[netip.Addr]int{}}
}

type gate struct {
	net.Listener
	limits     Limits
	mu         sync.Mutex
	all        int
	strangers  int
	perAddress map[netip.Addr]int
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var from netip.Addr
		if at, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			from = at.Addr().Unmap()
		}
		leave, ok := g.enter(from)
		if !ok {
			c.Close()
			continue
		}
		return &admitted{Conn: c, leave: sync.OnceFunc(leave)}, nil
	}
}

func (g *gate) enter(from netip.Addr) (leave func(), ok bool) {
	stranger := 1
	if g.limits.Known(from) {
		stranger = 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= g.limits.All || g.perAddress[from] >= g.limits.PerAddress || stranger == 1 && g.strangers >= g.limits.Strangers {
		return nil, false
	}
	g.all++
	g.strangers += stranger
	g.perAddress[from]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.all--
		g.strangers -= stranger
		if g.perAddress[from]--; g.perAddress[from] == 0 {
			delete(g.perAddress, from)
		}
	}, true
}

// An admitted connection gives back its place when it is closed.
type admitted struct {
	net.Conn
	leave func()
}

func (a *admitted) Close() error {
	a.leave()
	return a.Conn.Close()
}
