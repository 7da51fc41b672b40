package reimager

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/reimage"
)

// stall is for how long nothing may come of what was asked for.
const stall = time.Minute

// A Caller is the Controller at the other end of the link.
type Caller struct {
	client *enrol.Client
	made   time.Time // the order was
	began  time.Time
	ahead  atomic.Int64 // what the controller's clock is ahead of these, in nanoseconds
}

var _ Controller = (*Caller)(nil)

// NewCaller makes the calls of the node that an order is for, over its identity. The
// clock is the one of the order's making, since a Zero has none; where that does not do
// the controller is asked. The options are the client's, but for Now.
func NewCaller(order *reimage.Order, o enrol.ClientOptions) (*Caller, error) {
	id, err := enrol.NewIdentity([]byte(order.Key), []byte(order.Certificate), []byte(order.CA))
	if err != nil {
		return nil, fmt.Errorf("the order's identity: %w", err)
	}
	if id.Peer.Slot != order.Slot {
		return nil, fmt.Errorf("the order is for slot %d, and its certificate is that of %s", order.Slot, id.Peer)
	}
	controller, err := netip.ParseAddr(order.Controller)
	if err != nil {
		return nil, fmt.Errorf("the order's controller: %w", err)
	}
	c := &Caller{made: order.Time, began: time.Now()}
	o.Now = c.now
	c.client = enrol.NewClient(id, controller, o)
	return c, nil
}

// Image implements Controller.
func (c *Caller) Image(ctx context.Context, begun bool) (*reimage.Image, error) {
	path := reimage.PathImage
	if begun {
		path += "?" + reimage.QueryBegun + "=1"
	}
	data, err := c.small(ctx, http.MethodGet, path, nil, enrol.MaxRequest)
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		if terr := c.setClock(ctx); terr != nil {
			return nil, errors.Join(err, terr)
		}
		data, err = c.small(ctx, http.MethodGet, path, nil, enrol.MaxRequest)
	}
	if errors.Is(err, ErrChanged) {
		return nil, ErrNothing
	}
	if err != nil {
		return nil, fmt.Errorf("cannot ask which image the card is to hold: %w", err)
	}
	image := new(reimage.Image)
	if err := json.Unmarshal(data, image); err != nil {
		return nil, fmt.Errorf("cannot understand which image the card is to hold: %w", err)
	}
	return image, nil
}

// setClock asks the controller for the time.
func (c *Caller) setClock(ctx context.Context) error {
	reading, err := c.client.Time(ctx)
	if err != nil {
		return err
	}
	c.ahead.Add(int64(reading.Now().Sub(c.now())))
	c.client.Reset()
	return nil
}

// now is the time, as far as it is known.
func (c *Caller) now() time.Time {
	return c.made.Add(time.Since(c.began) + time.Duration(c.ahead.Load()))
}

// List implements Controller.
func (c *Caller) List(ctx context.Context, list string) ([]byte, error) {
	raw, err := c.small(ctx, http.MethodGet, reimage.PathImage+"/"+list+reimage.PathDigests, nil, reimage.MaxList)
	if err != nil {
		return nil, fmt.Errorf("cannot get the list of the image's pieces: %w", err)
	}
	return raw, nil
}

// Pieces implements Controller.
func (c *Caller) Pieces(ctx context.Context, list string, wanted reimage.Wanted) (io.ReadCloser, error) {
	body, err := c.ask(ctx, http.MethodPost, reimage.PathImage+"/"+list+reimage.PathPieces, wanted)
	if err != nil {
		return nil, fmt.Errorf("cannot get pieces of the image: %w", err)
	}
	return body, nil
}

// Tell implements Controller.
func (c *Caller) Tell(ctx context.Context, list string, p reimage.Progress) error {
	_, err := c.small(ctx, http.MethodPost, reimage.PathImage+"/"+list+reimage.PathProgress, p, enrol.MaxRequest)
	if err != nil {
		return fmt.Errorf("cannot tell the controller: %w", err)
	}
	return nil
}

// small makes a call whose answer has at most so many bytes.
func (c *Caller) small(ctx context.Context, method, path string, body any, most int64) ([]byte, error) {
	answer, err := c.ask(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	data, err := io.ReadAll(io.LimitReader(answer, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("the controller's answer has more than %d bytes", most)
	}
	return data, nil
}

// ask makes a call and gives the answer's body, which ends where nothing comes for too
// long. An answer of 404 is ErrChanged.
func (c *Caller) ask(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(data)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(2*stall, func() { cancel(errStalled) })
	request, err := http.NewRequestWithContext(ctx, method, c.client.URL(path), content)
	if err != nil {
		watch.Stop()
		cancel(nil)
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	// Every call may be made twice: see enrol.Client.
	request.Header["Idempotency-Key"] = []string{}
	response, err := c.client.HTTP().Do(request)
	if err != nil {
		watch.Stop()
		if cause := context.Cause(ctx); cause == errStalled {
			err = cause
		}
		cancel(nil)
		c.client.Reset() // a kept connection may be what is wrong
		return nil, err
	}
	b := &answer{ReadCloser: response.Body, ctx: ctx, cancel: cancel, watch: watch}
	if response.StatusCode >= 200 && response.StatusCode <= 299 {
		return b, nil
	}
	defer b.Close()
	data, _ := io.ReadAll(io.LimitReader(b, enrol.MaxRequest))
	if response.StatusCode == http.StatusNotFound {
		return nil, ErrChanged
	}
	refusal := &enrol.Error{Status: response.StatusCode}
	if json.Unmarshal(data, refusal) != nil || refusal.Code == "" {
		return nil, fmt.Errorf("the controller answered %d", response.StatusCode)
	}
	return nil, refusal
}

var errStalled = errors.New("the controller says nothing any more")

// An answer is a body that is watched.
type answer struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *time.Timer
}

func (a *answer) Read(p []byte) (int, error) {
	a.watch.Reset(stall)
	n, err := a.ReadCloser.Read(p)
	a.watch.Stop() // whoever reads may take its time with it
	if err != nil && err != io.EOF && context.Cause(a.ctx) == errStalled {
		err = errStalled
	}
	return n, err
}

func (a *answer) Close() error {
	a.watch.Stop()
	err := a.ReadCloser.Close()
	a.cancel(nil)
	return err
}
