package reimage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"

	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	"hatchery/internal/nodefile"
	wire "hatchery/internal/reimage"
)

// A RefusedError says that a node was asked to have its card written, and does not do it.
type RefusedError struct {
	Slot int
	Err  error // what it said
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("p%d does not have its card written: %v", e.Slot, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// An UnreachableError says that a node cannot be asked to have its card written.
type UnreachableError struct {
	Slot int
	Err  error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("p%d cannot be asked to have its card written: %v: see hatchery console p%d; else flash a card for it and put that in, or boot it without one (hatchery netboot enable p%d)", e.Slot, e.Err, e.Slot, e.Slot)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Is makes the error match [ErrUnreachable].
func (e *UnreachableError) Is(target error) bool { return target == ErrUnreachable }

// ErrUnreachable is what every *UnreachableError matches.
var ErrUnreachable = errors.New("the node cannot be asked")

// arm asks a node's agent, once. The error is a *RefusedError where the agent answered.
func (s *Service) arm(ctx context.Context, target nodefile.Target, operation string) (*wire.Armed, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Times.Call)
	defer cancel()
	body, err := json.Marshal(&wire.Arm{Operation: operation})
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: s.o.Times.Call / 2}
	// A connection of its own: the next call is to another boot.
	transport := &http.Transport{
		TLSClientConfig: enrol.ClientTLS(s.o.Identity, target.Slot), DialContext: dialer.DialContext,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	url := "https://" + netip.AddrPortFrom(target.Address, s.o.Port).String() + wire.PathArm
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, enrol.MaxRequest))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusNotFound {
		return nil, &RefusedError{target.Slot, errors.New("its agent is of before this: build the slot's image again, and flash the card with it once more")}
	}
	if answer.StatusCode/100 != 2 {
		e := new(enrol.Error)
		if json.Unmarshal(data, e) != nil || e.Code == "" {
			e = &enrol.Error{Detail: "it answered " + answer.Status}
		}
		e.Status, e.Detail = answer.StatusCode, hearsay.Line(e.Detail, 4*wire.MaxText)
		e.Code = enrol.Code(hearsay.Line(string(e.Code), 64))
		return nil, &RefusedError{target.Slot, e}
	}
	armed := new(wire.Armed)
	if err := json.Unmarshal(data, armed); err != nil {
		return nil, fmt.Errorf("its answer is not what it should be: %w", err)
	}
	armed.BootID = hearsay.Line(armed.BootID, 64)
	return armed, nil
}
