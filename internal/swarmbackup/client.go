package swarmbackup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/enrol"
	"hatchery/internal/sealed"
)

// A Node is one that keeps backups.
type Node struct {
	Name string // p1
	Slot int
	Addr netip.Addr
}

// A Client is the controller's side: it asks nodes for the backups that they keep, and
// gives them new ones.
type Client struct {
	Identity *enrol.Identity // the controller's
	Port     uint16          // 0: enrol.Port
	// Stall is how long a call may stand still before it is given up; 0: a
	// minute. A Zero's handshake alone takes seconds.
	Stall time.Duration
}

// atOnce is how many nodes are called side by side.
const atOnce = 8

// maxListing is more than a listing has, in bytes, and maxEntries more than an
// honest node keeps: what it lists beyond that would be asked for in vain, one
// after the other.
const (
	maxListing = 1 << 20
	maxEntries = 2*Kept + 2
)

// minRate is the least that has to move over a call's whole time, in bytes a
// second; a node's link has 60000 for all that it does. Otherwise a node could
// hold up a recovery for ever with a byte now and then.
const minRate = 4 << 10

// ErrNone is when no node has a backup of this cluster that can be opened.
var ErrNone = errors.New("no node that answered has a backup of this cluster")

// An Offer is a backup that nodes keep. Its label was signed by the
// controller.
type Offer struct {
	ID    string
	Bytes int64
	Label Label
	Nodes []Node // that keep it
}

// A Survey is what nodes keep.
type Survey struct {
	Offers   []Offer          // the newest first
	Answered []Node           // whether they have one or not
	Silent   map[string]error // nodes that did not answer, by name, and why
}

// Survey asks nodes what they keep. What was not signed by this controller, or is
// of another cluster, is passed over.
func (c *Client) Survey(ctx context.Context, nodes []Node) *Survey {
	s := &Survey{Silent: make(map[string]error)}
	listings := make([]*Listing, len(nodes))
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, node := range nodes {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			listings[i], errs[i] = c.List(ctx, node)
		})
	}
	wg.Wait()
	offers := make(map[string]*Offer)
	for i, node := range nodes {
		if errs[i] != nil {
			s.Silent[node.Name] = errs[i]
			continue
		}
		s.Answered = append(s.Answered, node)
		backups := listings[i].Backups
		for _, entry := range backups[:min(len(backups), maxEntries)] {
			label, err := c.label(entry)
			if err != nil {
				continue
			}
			// By both: a node that lies about one must not spoil what others say.
			key := entry.ID + string(entry.Header)
			offer := offers[key]
			if offer == nil {
				offer = &Offer{ID: entry.ID, Bytes: entry.Bytes, Label: *label}
				offers[key] = offer
			}
			if !slices.Contains(offer.Nodes, node) {
				offer.Nodes = append(offer.Nodes, node)
			}
		}
	}
	for _, offer := range offers {
		s.Offers = append(s.Offers, *offer)
	}
	NewestFirst(s.Offers)
	return s
}

// NewestFirst sorts by swarms, the one that was backed up last first, and
// within a swarm by raft's order.
func NewestFirst(offers []Offer) {
	latest := make(map[string]time.Time)
	for _, o := range offers {
		if o.Label.Taken.After(latest[o.Label.Swarm]) {
			latest[o.Label.Swarm] = o.Label.Taken
		}
	}
	slices.SortFunc(offers, func(a, b Offer) int {
		if a.Label.Swarm != b.Label.Swarm {
			return cmp.Or(latest[b.Label.Swarm].Compare(latest[a.Label.Swarm]), cmp.Compare(a.Label.Swarm, b.Label.Swarm))
		}
		// What several nodes keep is what they say it is; a label alone any of
		// them can put on something else.
		return cmp.Or(b.Label.Compare(&a.Label), cmp.Compare(len(b.Nodes), len(a.Nodes)), cmp.Compare(a.ID, b.ID))
	})
}

// label reads and checks who signed what a node says that it keeps.
func (c *Client) label(entry Entry) (*Label, error) {
	if !ValidID(entry.ID) {
		return nil, fmt.Errorf("%.80q is no backup's id", entry.ID)
	}
	header, err := sealed.ReadHeader(bytes.NewReader(entry.Header))
	if err != nil {
		return nil, err
	}
	if err := header.Verify(&c.Identity.Key().PublicKey); err != nil {
		return nil, err
	}
	label, err := ParseLabel(header.Label)
	if err != nil {
		return nil, err
	}
	if label.Cluster != c.Identity.Peer.Cluster {
		return nil, &OtherClusterError{label.Cluster, c.Identity.Peer.Cluster}
	}
	return label, nil
}

// Newest asks the nodes for the newest backup and puts it at place, checked to
// its end. A backup that cannot be had whole from any node is passed over for
// the next. ErrNone: there is none; the survey says who did not answer.
func (c *Client) Newest(ctx context.Context, nodes []Node, place string) (*Offer, *Survey, error) {
	survey := c.Survey(ctx, nodes)
	var errs []error
	for _, offer := range survey.Offers {
		for _, node := range offer.Nodes {
			err := c.Get(ctx, node, offer.ID, place, &offer.Label)
			if err == nil {
				return &offer, survey, nil
			}
			if ctx.Err() != nil {
				return nil, survey, context.Cause(ctx)
			}
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, survey, fmt.Errorf("%w; those that there are: %w", ErrNone, errors.Join(errs...))
	}
	return nil, survey, ErrNone
}

// List asks a node what it keeps.
func (c *Client) List(ctx context.Context, node Node) (*Listing, error) {
	var listing Listing
	err := c.call(ctx, node, http.MethodGet, enrol.PathBackup, nil, 0, func(r io.Reader, _ *http.Response) error {
		data, err := io.ReadAll(io.LimitReader(r, maxListing))
		if err != nil {
			return err
		}
		return json.Unmarshal(data, &listing)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s for its backups: %w", node.Name, err)
	}
	return &listing, nil
}

// Put gives a node a backup. id is the file's (FileID).
func (c *Client) Put(ctx context.Context, node Node, id, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot give a backup to %s: %w", node.Name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = c.call(ctx, node, http.MethodPut, enrol.PathBackup+"/"+id, f, info.Size(), nil)
	}
	if err != nil {
		return fmt.Errorf("cannot give a backup to %s: %w", node.Name, err)
	}
	return nil
}

// Get fetches a backup from a node to place, where it appears once it is
// whole, opens with the controller's key, and is this cluster's. Where a label
// is given, it must be the one.
func (c *Client) Get(ctx context.Context, node Node, id, place string, want *Label) error {
	err := c.get(ctx, node, id, place, want)
	if err != nil {
		return fmt.Errorf("cannot fetch a backup from %s: %w", node.Name, err)
	}
	return nil
}

func (c *Client) get(ctx context.Context, node Node, id, place string, want *Label) error {
	f, err := atomicfile.Create(place, 0o600)
	if err != nil {
		return err
	}
	defer f.Discard()
	sum := sha256.New()
	err = c.call(ctx, node, http.MethodGet, enrol.PathBackup+"/"+id, nil, 0, func(r io.Reader, answer *http.Response) error {
		n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(r, MaxSize+1))
		if err == nil && n > MaxSize {
			err = fmt.Errorf("it has more than %d bytes", int64(MaxSize))
		}
		return err
	})
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != id {
		return fmt.Errorf("%w: its digest is %s, not %s", sealed.ErrDamaged, got, id)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	label, err := Check(ctx, f, c.Identity)
	if err != nil {
		return err
	}
	if want != nil && *label != *want {
		return fmt.Errorf("%w: it is not the one that the node listed", sealed.ErrDamaged)
	}
	return f.Commit()
}

// FileID gives the id of a backup's file, and its size.
func FileID(file string) (id string, size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	sum := sha256.New()
	size, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), size, err
}

// call makes one call, on a connection of its own: they are minutes apart.
func (c *Client) call(ctx context.Context, node Node, method, path string, body io.Reader, size int64, read func(io.Reader, *http.Response) error) error {
	stall := cmp.Or(c.Stall, time.Minute)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Every byte that moves is a sign of life; a slow link may take its time.
	watch := time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing moved for %v", stall)) })
	defer watch.Stop()
	began := time.Now()
	var moved atomic.Int64
	alive := func(n int) {
		watch.Reset(stall)
		most := 2*stall + time.Duration(moved.Add(int64(n))/minRate)*time.Second
		if took := time.Since(began); took > most {
			cancel(fmt.Errorf("too little moved in %v", took.Round(time.Second)))
		}
	}

	dialer := net.Dialer{Timeout: min(stall, 15*time.Second)}
	transport := &http.Transport{
		TLSClientConfig:   enrol.ClientTLS(c.Identity, node.Slot),
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &liveConn{conn, alive}, nil
		},
		TLSHandshakeTimeout: stall,
		DisableCompression:  true,
	}
	defer transport.CloseIdleConnections()
	port := cmp.Or(c.Port, enrol.Port)
	url := "https://" + netip.AddrPortFrom(node.Addr, port).String() + path
	if body != nil {
		body = io.NopCloser(body) // the file is the caller's to close
	}
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	if body != nil {
		request.ContentLength = size
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return cause(ctx, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		return refusal(answer)
	}
	if read == nil {
		return nil
	}
	return cause(ctx, read(answer.Body, answer))
}

// cause gives why a call was cancelled, where it was.
func cause(ctx context.Context, err error) error {
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
		return fmt.Errorf("the node answered %s", strconv.Itoa(answer.StatusCode)+" "+http.StatusText(answer.StatusCode))
	}
	e.Status = answer.StatusCode
	return e
}

type liveConn struct {
	net.Conn
	alive func(n int)
}

func (l *liveConn) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.alive(n)
	}
	return n, err
}

func (l *liveConn) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if n > 0 {
		l.alive(n)
	}
	return n, err
}
