package swarm

import (
	"cmp"
	"time"

	"github.com/docker/docker/api/types/swarm"
)

// Settings are what a swarm can be told at any time. Of one that is 0, nothing is said.
type Settings struct {
	CertExpiry time.Duration // life of the certificates that it gives to nodes
	// Heartbeat is the time between two signs of life that a node gives. After three that
	// do not come it is taken for lost (swarmkit manager/dispatcher/dispatcher.go).
	Heartbeat time.Duration
}

// Or are the settings, and of those that are 0 the others.
func (s Settings) Or(others Settings) Settings {
	return Settings{CertExpiry: cmp.Or(s.CertExpiry, others.CertExpiry), Heartbeat: cmp.Or(s.Heartbeat, others.Heartbeat)}
}

// settingsOf are those of a swarm's specification.
func settingsOf(spec *swarm.Spec) Settings {
	return Settings{CertExpiry: spec.CAConfig.NodeCertExpiry, Heartbeat: spec.Dispatcher.HeartbeatPeriod}
}

// put writes them into a swarm's specification.
func (s Settings) put(spec *swarm.Spec) {
	spec.CAConfig.NodeCertExpiry, spec.Dispatcher.HeartbeatPeriod = s.CertExpiry, s.Heartbeat
}
