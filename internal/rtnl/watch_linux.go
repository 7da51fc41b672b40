package rtnl

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Between attempts to subscribe.
const (
	firstWait = time.Second
	mostWait  = time.Minute
)

// Watch tells of changes until ctx ends, and closes the channel then. It does
// not say what changed: whoever watches reads the present state anew, so
// nothing is missed where the kernel drops events because they come too fast;
// that is told as a change. The first is told as soon as it listens: a state
// that is read after that misses nothing. Changes that nobody has taken yet are
// told once.
func Watch(ctx context.Context, opt WatchOptions) <-chan struct{} {
	if opt.Links == nil {
		opt.Links = func(Link) bool { return true }
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Quiet == 0 {
		opt.Quiet = 100 * time.Millisecond
	}
	w := &watch{WatchOptions: opt, changed: make(chan struct{}, 1), relevant: map[int]bool{}}
	var listeners sync.WaitGroup
	listeners.Go(func() {
		w.listen(ctx, "links, addresses and routes", w.routes)
	})
	if opt.PacketFilter {
		listeners.Go(func() {
			w.listen(ctx, "the packet filter", w.packetFilter)
		})
	}
	told := make(chan struct{}, 1)
	go func() {
		defer close(told)
		defer listeners.Wait()
		w.gather(ctx, told)
	}()
	return told
}

type watch struct {
	WatchOptions
	changed  chan struct{}
	relevant map[int]bool // links that matter, by index; of the goroutine that listens to routes
}

// tell never waits: one change that is still to be told stands for all.
func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// gather makes one of changes that come together.
func (w *watch) gather(ctx context.Context, told chan<- struct{}) {
	first := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		}
		if first { // there is nothing to gather yet
			first = false
			tell(told)
			continue
		}
		most := time.NewTimer(10 * w.Quiet)
		quiet := time.NewTimer(w.Quiet)
		for more := true; more; {
			select {
			case <-ctx.Done():
				more = false
			case <-w.changed:
				quiet.Reset(w.Quiet)
			case <-quiet.C:
				more = false
			case <-most.C:
				more = false
			}
		}
		quiet.Stop()
		most.Stop()
		tell(told)
	}
}

// listen keeps a subscription up. It begins anew after an error, and tells of a
// change then, since what happened meanwhile is not known.
func (w *watch) listen(ctx context.Context, what string, subscribe func(context.Context) error) {
	wait := firstWait
	for {
		began := time.Now()
		err := subscribe(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > mostWait {
			wait = firstWait
		}
		w.Log.Warn("cannot listen to changes of "+what, "error", err, "again_in", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, mostWait)
	}
}

// routes listens to links, addresses and routes (rtnetlink(7)).
func (w *watch) routes(ctx context.Context) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE)
	if err != nil {
		return err
	}
	list := func() error {
		request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		return s.Send(request)
	}
	return w.receive(ctx, s, list, w.matters)
}

// packetFilter listens to the transactions of nftables.
func (w *watch) packetFilter(ctx context.Context) error {
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return err
	}
	return w.receive(ctx, s, func() error { return nil }, func(syscall.NetlinkMessage) bool { return true })
}

// receive tells of what matters among a socket's messages. list asks for what
// is there already.
func (w *watch) receive(ctx context.Context, s *nl.NetlinkSocket, list func() error, matters func(syscall.NetlinkMessage) bool) error {
	defer context.AfterFunc(ctx, s.Close)()
	defer s.Close()
	if err := list(); err != nil {
		return err
	}
	tell(w.changed)
	for {
		messages, from, err := s.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// Events were dropped. The socket goes on with the next one.
			w.Log.Info("changes of the network came too fast to be told one by one")
			if err := list(); err != nil {
				return err
			}
			tell(w.changed)
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case from.Pid != nl.PidKernel: // another process may write to the socket
			continue
		}
		for _, m := range messages {
			if matters(m) {
				tell(w.changed)
			}
		}
	}
}

// matters says whether a message of rtnetlink is about a link that matters.
func (w *watch) matters(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return false
		}
		header := unix.NlMsghdr(m.Header)
		link, err := netlink.LinkDeserialize(&header, m.Data)
		if err != nil {
			return false
		}
		a := link.Attrs()
		// The bridge's view of a port: its DELLINK means that the port left
		// the bridge, and it does not say what kind of link it is.
		if m.Data[0] == unix.AF_BRIDGE {
			return w.relevant[a.Index]
		}
		// A link that mattered and got another MAC address still does, once.
		mattered := w.relevant[a.Index]
		matters := w.Links(Link{Index: a.Index, Name: a.Name, Kind: link.Type(), MAC: a.HardwareAddr, Master: a.MasterIndex})
		if matters && m.Header.Type == unix.RTM_NEWLINK {
			w.relevant[a.Index] = true
		} else {
			delete(w.relevant, a.Index)
		}
		// An answer to list is no change, but for a link that was not known.
		if m.Header.Flags&unix.NLM_F_MULTI != 0 {
			return matters != mattered
		}
		return matters || mattered
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		// struct ifaddrmsg: family, prefix length, flags, scope, index.
		return len(m.Data) >= unix.SizeofIfAddrmsg && w.relevant[int(binary.NativeEndian.Uint32(m.Data[4:]))]
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.Data) < unix.SizeofRtMsg {
			return false
		}
		attrs, err := nl.ParseRouteAttr(m.Data[unix.SizeofRtMsg:])
		if err != nil {
			return false
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.RTA_OIF && len(a.Value) >= 4 {
				return w.relevant[int(binary.NativeEndian.Uint32(a.Value))]
			}
		}
	}
	return false
}
