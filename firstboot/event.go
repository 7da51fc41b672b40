package firstboot

import (
	"context"
	"log/slog"
)

// An Event is a kind of thing that the agent tells the journal, each with a
// MESSAGE_ID of its own: `journalctl MESSAGE_ID=…` finds them all.
type Event struct {
	ID    string // 128 bits in hexadecimal, as journalctl has it
	Name  string
	Means string
}

// The events.
var (
	EventStarted     = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f001", "started", "the agent runs"}
	EventDone        = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f002", "done", "a step is done"}
	EventFailed      = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f003", "failed", "a step failed; it is tried again"}
	EventWaiting     = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f004", "waiting", "a step waits for something outside of it"}
	EventLost        = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f005", "lost", "a step that was done is not any more"}
	EventSteady      = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f006", "steady", "all steps are done"}
	EventStateBroken = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f007", "state-broken", "state.json could not be read or written"}
	EventStuck       = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f008", "stuck", "a step does not end; the watchdog will end the agent"}
	EventClock       = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f009", "clock", "the clock was set"}
	EventRejoin      = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f00a", "rejoin", "the controller asks the node to join again"}
	EventRefused     = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f00b", "refused", "the controller refuses this node"}
	EventUnheard     = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f00c", "unheard", "the controller does not take reports"}
	EventProblem     = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f00e", "problem", "something does not work, and keeps no step from being done"}
	EventStopped     = Event{"6f8f9d0dc0b54d3bb4a0e7a3c0f1f00d", "stopped", "the agent was told to end"}
)

// Events are all of them.
func Events() []Event {
	return []Event{EventStarted, EventDone, EventFailed, EventWaiting, EventLost, EventSteady, EventStateBroken,
		EventStuck, EventClock, EventRejoin, EventRefused, EventUnheard, EventProblem, EventStopped}
}

// LogValue is how an event stands in a log: by its name, and with the
// MESSAGE_ID for a handler that knows the journal.
func (e Event) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", e.Name), slog.String("message_id", e.ID))
}

// EventKey is the key of an event among a log record's attributes.
const EventKey = "event"

func (e Event) log(ctx context.Context, log *slog.Logger, level slog.Level, message string, args ...any) {
	log.Log(ctx, level, message, append([]any{slog.Any(EventKey, e)}, args...)...)
}
