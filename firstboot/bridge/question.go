package bridge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Of DNS (RFC 1035, section 4).
const (
	headerSize    = 12
	flagAnswer    = 1 << 15
	flagTruncated = 1 << 9
	flagRecursion = 1 << 8
	rcodeMask     = 0xf
	typeA         = 1
	classIN       = 1
)

// ask asks a name server for the addresses of a name, over UDP and three times
// at most. The standard library's resolver would look into /etc/hosts first,
// where the controller's own name is.
func ask(ctx context.Context, server netip.AddrPort, name string, patience time.Duration) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	id := uint16(rand.Uint32())
	query, err := question(id, name)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp4", server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	const tries = 3
	buf := make([]byte, 4096)
	for try := range tries {
		if _, err = conn.Write(query); err != nil {
			break
		}
		wait := time.Now().Add(patience / tries)
		if err = conn.SetReadDeadline(wait); err != nil {
			break
		}
		for err == nil {
			var n int
			n, err = conn.Read(buf)
			if err != nil {
				break
			}
			// A late answer to somebody else's question is passed over.
			addrs, aerr := answer(buf[:n], id, len(query))
			if !errors.Is(aerr, errNotOurs) {
				return addrs, aerr
			}
		}
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() || ctx.Err() != nil || try == tries-1 {
			break
		}
	}
	return nil, fmt.Errorf("no answer: %w", err)
}

// question is a query for the IPv4 addresses of a name.
func question(id uint16, name string) ([]byte, error) {
	q := binary.BigEndian.AppendUint16(nil, id)
	q = binary.BigEndian.AppendUint16(q, flagRecursion)
	q = append(q, 0, 1, 0, 0, 0, 0, 0, 0) // one question
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 {
			return nil, fmt.Errorf("%q is no name", name)
		}
		q = append(append(q, byte(len(label))), label...)
	}
	if len(q) > headerSize+254 {
		return nil, fmt.Errorf("%q is no name", name)
	}
	return append(q, 0, 0, typeA, 0, classIN), nil
}

var (
	errNotOurs  = errors.New("an answer to another question")
	errNoAnswer = errors.New("the answer is cut off, or no answer at all")
)

// answer reads the addresses out of an answer to the question with an id and a
// size.
func answer(m []byte, id uint16, size int) ([]netip.Addr, error) {
	if len(m) < headerSize || binary.BigEndian.Uint16(m) != id {
		return nil, errNotOurs
	}
	flags := binary.BigEndian.Uint16(m[2:])
	if flags&flagAnswer == 0 {
		return nil, errNotOurs
	}
	if rcode := flags & rcodeMask; rcode != 0 {
		return nil, fmt.Errorf("the name server answers with error %d", rcode)
	}
	answers := int(binary.BigEndian.Uint16(m[6:]))
	if flags&flagTruncated != 0 || binary.BigEndian.Uint16(m[4:]) != 1 || size > len(m) {
		return nil, errNoAnswer
	}
	rest := m[size:]
	var addrs []netip.Addr
	for range answers {
		var ok bool
		if rest, ok = afterName(rest); !ok || len(rest) < 10 {
			return nil, errNoAnswer
		}
		kind, class, n := binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:]), int(binary.BigEndian.Uint16(rest[8:]))
		if rest = rest[10:]; len(rest) < n {
			return nil, errNoAnswer
		}
		if kind == typeA && class == classIN && n == 4 {
			addrs = append(addrs, netip.AddrFrom4([4]byte(rest)))
		}
		rest = rest[n:]
	}
	return addrs, nil
}

// afterName gives what comes after a name: labels up to an empty one, or up to
// a pointer to the rest of them.
func afterName(m []byte) ([]byte, bool) {
	for len(m) > 0 {
		switch n := int(m[0]); {
		case n == 0:
			return m[1:], true
		case n >= 0xc0:
			if len(m) < 2 {
				return nil, false
			}
			return m[2:], true
		case n > 63 || len(m) < 1+n:
			return nil, false
		default:
			m = m[1+n:]
		}
	}
	return nil, false
}
