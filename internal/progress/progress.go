// Package progress is how long work tells where it stands. The packages that
// do the work report to a [Reporter]; the command line decides whether that
// becomes bars, plain lines, JSON or nothing.
package progress

// A Reporter is told when a piece of work begins. It must be safe for use by
// several goroutines, since targets are built side by side.
type Reporter interface {
	// Begin announces a piece of work named for people ("decompress
	// raspios.img.xz"). Total is the amount of work in bytes, or -1 where it
	// is not known beforehand.
	Begin(name string, total int64) Task
}

// A Task is one piece of work under way.
type Task interface {
	// Add says that n more bytes are done.
	Add(n int64)
	// End says that the work is over; err is nil where it succeeded. Calls
	// after the first do nothing, so that a deferred End is a safe net.
	End(err error)
}

// Discard is the reporter that tells nobody.
var Discard Reporter = discard{}

type discard struct{}

func (discard) Begin(string, int64) Task { return discard{} }
func (discard) Add(int64)                {}
func (discard) End(error)                {}
