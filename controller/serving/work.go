package serving

import (
	"fmt"
	"time"

	"hatchery/controller/operation"
	"hatchery/controller/power"
	"hatchery/controller/reimage"
	"hatchery/internal/enrol"
	wire "hatchery/internal/reimage"
)

// unheard is how long after the service began a node that writes its card may be at
// any point of that, as long as it has not said at which.
const unheard = 10 * time.Minute

// atWork says what is at work on a slot, for whom its power is kept; nil for nothing.
func (s *operating) atWork(slot int) *power.Work {
	var card *reimage.View
	if s.cards != nil {
		card = s.cards.View(slot)
	}
	if s.operations != nil {
		if v := s.operations.View(slot); v != nil {
			w := operationWork(v)
			if card != nil {
				w.Boot = writesBoot(card, time.Since(s.began))
			}
			return w
		}
	}
	switch {
	case card != nil:
		return cardWork(card, time.Since(s.began))
	case s.cards != nil && s.cards.Busy(slot):
		return &power.Work{What: "its card is about to be written", Remedy: "`hatchery status --watch` shows it"}
	}
	return nil
}

// operationWork is what an operation is at with a slot.
func operationWork(v *enrol.OperationView) *power.Work {
	by, verb := "", v.Kind
	if v.By != "" {
		by = " by " + v.By
	}
	if v.Kind == string(operation.Undo) {
		verb = string(operation.Upgrade)
	}
	return &power.Work{
		What:   fmt.Sprintf("the %s %s%s is at work on it since %s (%s)", v.Kind, v.ID, by, v.Since.Local().Format(time.TimeOnly), v.Step),
		Remedy: fmt.Sprintf("`hatchery %s --follow %s` shows it, `hatchery %[1]s --cancel %[2]s` ends it", verb, v.ID),
	}
}

// cardWork is a card that is being written, by a service that runs for so long. Nobody
// sees to it who would notice that nothing is heard of the node.
func cardWork(v *reimage.View, runs time.Duration) *power.Work {
	return &power.Work{
		What: "its card is written anew: " + v.String(), Remedy: "`hatchery status --watch` shows it",
		Boot: writesBoot(v, runs), Silent: min(time.Duration(min(v.SilentS, int64(runs/time.Second)))*time.Second, runs),
	}
}

// writesBoot says that a node writes its card's boot partition, or may: how far it is,
// a service that was started anew does not know before it is told. One that was started over
// its link since is at its beginning.
func writesBoot(v *reimage.View, runs time.Duration) bool {
	return v.Phase == reimage.Writing && !v.Rescued && (v.Progress.State == wire.Booting || v.Progress.State == "" && runs < unheard)
}
