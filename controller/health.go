package controller

import (
	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
)

// maxFindings is more than there are kinds of them.
const maxFindings = 32

// health bounds what a node says of itself.
func health(h *enrol.Health) {
	if h == nil {
		return
	}
	h.Kernel, h.Engine, h.System = hearsay.Line(h.Kernel, maxWord), hearsay.Line(h.Engine, maxWord), hearsay.Line(h.System, maxWord)
	h.Findings = h.Findings[:min(len(h.Findings), maxFindings)]
	for i := range h.Findings {
		f := &h.Findings[i]
		f.Code, f.Detail, f.Remedy = hearsay.Line(f.Code, maxWord), hearsay.Line(f.Detail, maxDetail), hearsay.Line(f.Remedy, maxDetail)
	}
}
