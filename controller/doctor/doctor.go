package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/netboot"
)

// An Engine is what is asked of the controller's Docker; *swarm.Engine is one.
type Engine interface {
	Nodes(ctx context.Context) ([]swarm.Node, error)
	Networks(ctx context.Context) ([]swarm.Network, error)
	Tasks(ctx context.Context, node string) ([]swarm.Task, error)
	Services(ctx context.Context) ([]swarm.Service, error)
}

// Units says where a unit of systemd's stands; *systemd.Units does.
type Units interface {
	UnitState(ctx context.Context, name string) (active, reason string, err error)
}

// An Interface is one of the controller's, with its addresses.
type Interface struct {
	Name     string
	Prefixes []netip.Prefix
}

// Options are what is looked at. What is nil is told to be unchecked; what a
// controller has not (no netboot, no Docker) is not missed.
type Options struct {
	Root     string         // where the controller's files are; "" for /
	Node     *nodefile.Node // the controller's own; needed
	Identity *enrol.Identity
	Version  string // the service's
	// View is what the service knows of the cluster, Boots of slots without
	// cards.
	View  func(ctx context.Context) (*enrol.ClusterView, error)
	Boots func(ctx context.Context) (*netboot.View, error)
	// Health is what the controller finds of itself.
	Health func(ctx context.Context) *enrol.Health
	Engine Engine
	Units  Units
	// Interfaces are the controller's, Filter the listing of its packet filter
	// (iptables -S).
	Interfaces func() ([]Interface, error)
	Filter     func(ctx context.Context) (string, error)
	Now        func() time.Time
}

// A Finding is something that is wrong, or may be.
type Finding struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`
	Where    string   `json:"where"` // controller, p2, cluster
	Detail   string   `json:"detail"`
	Remedy   string   `json:"remedy,omitempty"`
}

// A Report is what was found, the worst first, and what was not looked at.
type Report struct {
	Time      time.Time `json:"time"`
	Findings  []Finding `json:"findings"`
	Unchecked []string  `json:"unchecked,omitempty"`
}

// Sick says that there is something to see to: notes are none.
func (r *Report) Sick() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity != Note })
}

// Where findings are that are no slot's.
const (
	OnController = "controller"
	OfCluster    = "cluster"
)

// An examination collects what is found.
type examination struct {
	Options
	report  *Report
	view    *enrol.ClusterView
	booting map[int]bool // slots of which netboot has said what is wrong
}

// maxText is how much of a text is told, in bytes.
const maxText = 500

func (e *examination) found(code, where, remedy, format string, values ...any) {
	severity := severityOf(code)
	e.report.Findings = append(e.report.Findings, Finding{
		Severity: severity, Code: code, Where: where,
		Detail: hearsay.Line(fmt.Sprintf(format, values...), maxText), Remedy: hearsay.Line(remedy, maxText),
	})
}

// has says that something was found.
func (e *examination) has(code, where string) bool {
	return slices.ContainsFunc(e.report.Findings, func(f Finding) bool { return f.Code == code && f.Where == where })
}

// unchecked tells that something could not be looked at, and why.
func (e *examination) unchecked(what string, err error) {
	text := what
	if err != nil {
		text += ": " + err.Error()
	}
	e.report.Unchecked = append(e.report.Unchecked, hearsay.Line(text, maxText))
}

// Examine looks at everything once. What cannot be looked at ends nothing: it is
// told.
func Examine(ctx context.Context, o Options) *Report {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	e := &examination{Options: o, report: &Report{Time: o.Now().UTC(), Findings: []Finding{}}, booting: map[int]bool{}}
	e.controller(ctx)
	e.boots(ctx)
	e.cluster(ctx)
	e.engine(ctx)
	e.filter(ctx)
	e.addresses(ctx)
	slices.SortStableFunc(e.report.Findings, func(a, b Finding) int {
		if d := a.Severity.rank() - b.Severity.rank(); d != 0 {
			return d
		}
		return order(a.Where) - order(b.Where)
	})
	e.report.Findings = slices.CompactFunc(e.report.Findings, func(a, b Finding) bool {
		return a.Code == b.Code && a.Where == b.Where && a.Detail == b.Detail
	})
	return e.report
}

// order has the cluster first, then the controller, then the slots.
func order(where string) int {
	switch where {
	case OfCluster:
		return -2
	case OnController:
		return -1
	}
	n := 0
	for _, r := range strings.TrimPrefix(where, "p") {
		if r < '0' || r > '9' || n > 1000 {
			return 1000
		}
		n = 10*n + int(r-'0')
	}
	return n
}
