package usbboot

import (
	"context"
	"sync"
	"time"
)

// reattach is how long after bootcode.bin was taken a board is expected back.
const reattach = 10 * time.Second

// A Port is one USB port's memory between the attachments of the board that hangs
// there. The zero Port remembers nothing.
type Port struct {
	mu       sync.Mutex
	bootcode time.Time // when it was last taken; zero: not in this boot
	rounds   int
}

// Serve is [Serve] for what is attached to the port now.
func (p *Port) Serve(ctx context.Context, d Device, files Files, o Options) (Result, error) {
	p.mu.Lock()
	if d.Stage == StageROM && !p.bootcode.IsZero() && time.Since(p.bootcode) < reattach {
		d.Again = true
	}
	p.mu.Unlock()

	result, err := Serve(ctx, d, files, o)

	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case result.Stage == StageFiles:
		p.bootcode, p.rounds = time.Time{}, 0
	case len(result.Transcript.Read()) > 0: // bootcode.bin, whole
		p.bootcode = time.Now()
		p.rounds++
	}
	return result, err
}

// Rounds says how often the boot ROM took bootcode.bin since a board here last
// asked for a file. More than one or two mean that this bootcode.bin does not run
// on this board.
func (p *Port) Rounds() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rounds
}

// Forget is for a port whose power was cut: what comes next is a boot ROM.
func (p *Port) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bootcode, p.rounds = time.Time{}, 0
}
