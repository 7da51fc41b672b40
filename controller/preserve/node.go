package preserve

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/kept"
)

// ask makes a call whose answer is JSON.
func (k *Keeper) ask(ctx context.Context, slot int, method, path string, body, into any) error {
	return k.call(ctx, slot, method, path, body, func(r io.Reader, _ *http.Response) error {
		data, err := io.ReadAll(io.LimitReader(r, kept.MaxBody+1))
		if err != nil {
			return err
		}
		if len(data) > kept.MaxBody {
			return fmt.Errorf("the answer has more than %d bytes", kept.MaxBody)
		}
		return json.Unmarshal(data, into)
	})
}

// call makes one call to a slot's node, on a connection of its own.
func (k *Keeper) call(ctx context.Context, slot int, method, path string, body any, read func(io.Reader, *http.Response) error) error {
	addr, err := k.o.Addr(slot)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Every byte that moves is a sign of life; a slow link may take its time.
	stall := k.o.Stall
	watch := time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing moved for %v", stall)) })
	defer watch.Stop()
	dialer := net.Dialer{Timeout: min(stall, 15*time.Second)}
	transport := &http.Transport{
		TLSClientConfig:   enrol.ClientTLS(k.o.Identity, slot),
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &live{conn, func() { watch.Reset(stall) }}, nil
		},
		TLSHandshakeTimeout:    stall,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true,
	}
	defer transport.CloseIdleConnections()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+netip.AddrPortFrom(addr, k.o.Port).String()+path, content)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, because(ctx, err))
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		return refusal(answer)
	}
	return because(ctx, read(answer.Body, answer))
}

// because gives why a call was cancelled, where it was.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// refusal is what a node says that does not want to.
func refusal(answer *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	e := new(enrol.Error)
	if json.Unmarshal(data, e) != nil || e.Code == "" {
		e.Detail = "the node answered " + http.StatusText(answer.StatusCode) + ": its agent may be older than this controller's service"
	}
	e.Status = answer.StatusCode
	if e.Code == kept.InUse {
		return fmt.Errorf("%w: %w", ErrInUse, e)
	}
	return e
}

// A live connection tells when something moves.
type live struct {
	net.Conn
	moved func()
}

func (l *live) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.moved()
	}
	return n, err
}
