package usbboot

import "time"

// A Kind says what an [Event] tells.
type Kind int

// The kinds of events.
const (
	Began    Kind = iota + 1 // the attachment's stage is served from now on
	Sending                  // a file is being sent: Bytes of Total so far
	Sent                     // the device took all of a file
	Missing                  // the device asked for a file that is not there
	Refused                  // the device asked for a name that cannot be one; Err says why
	Retried                  // a transfer failed and is done again; Err says why
	Finished                 // the attachment has ended; Err says why, if it failed
)

// String names the kind in one word.
func (k Kind) String() string {
	switch k {
	case Began:
		return "began"
	case Sending:
		return "sending"
	case Sent:
		return "sent"
	case Missing:
		return "missing"
	case Refused:
		return "refused"
	case Retried:
		return "retried"
	case Finished:
		return "finished"
	}
	return "unknown"
}

// An Event is something that happened while a device was served.
type Event struct {
	Kind  Kind
	At    time.Time // with a monotonic reading
	Stage Stage
	Name  string // the file; "" where it is about none
	Bytes int64  // of the file, taken so far
	Total int64  // the file's size
	Sum   int64  // bytes of all files that the device took in this attachment
	Err   error  // see Kind
}

// An End says how an attachment ended.
type End int

// The ends of an attachment.
const (
	EndFailed   End = iota + 1 // it went wrong; Serve's error says how
	EndBootcode                // the boot ROM took bootcode.bin: it comes back as StageFiles
	EndDone                    // the device said that it wants nothing more
	EndLeft                    // the device left between two questions: it starts what it has
)

// String says the end in words.
func (e End) String() string {
	switch e {
	case EndFailed:
		return "failed"
	case EndBootcode:
		return "bootcode.bin was taken"
	case EndDone:
		return "the device said that it has everything"
	case EndLeft:
		return "the device left"
	}
	return "unknown"
}

// A Result is what came of an attachment.
type Result struct {
	Stage      Stage // that was served; not Device's, where that proved wrong
	End        End
	Duration   time.Duration
	Bytes      int64 // of all files that the device took
	Transcript Transcript
}
