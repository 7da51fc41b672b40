package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"

	"hatchery/internal/clusterctrl"
)

// MachineID is a target's machine-id(5): 32 lower-case hexadecimal digits,
// derived from the cluster's secret, so the same at every build and told by
// nothing outside. Like those that systemd makes, it is a UUID of version 4.
func (s *Store) MachineID(name string) string {
	id := s.derive("machine-id", name)[:16]
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return hex.EncodeToString(id)
}

// DiskID is the disk signature of a target's image, by which its partitions
// are named (PARTUUID): derived like the machine-id, never 0, and different
// for all targets that a cluster can have.
func (s *Store) DiskID(name string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.diskIDs == nil {
		s.diskIDs = map[string]uint32{}
		taken := map[uint32]bool{0: true}
		s.takeDiskID(controllerName, taken)
		for n := clusterctrl.MinSlot; n <= clusterctrl.MaxSlot; n++ {
			s.takeDiskID(clusterctrl.SlotName(n), taken)
		}
		// The others after the slots, whose ids are as they were.
		for n := 2; n <= maxControllers; n++ {
			s.takeDiskID(controllerName+strconv.Itoa(n), taken)
		}
	}
	if id, ok := s.diskIDs[name]; ok {
		return id
	}
	return s.diskID(name, 0) | 1
}

// takeDiskID gives a target the first of its candidates that is not taken.
func (s *Store) takeDiskID(name string, taken map[uint32]bool) {
	for try := 0; ; try++ {
		if id := s.diskID(name, try); !taken[id] {
			taken[id] = true
			s.diskIDs[name] = id
			return
		}
	}
}

func (s *Store) diskID(name string, try int) uint32 {
	use := "disk-id"
	if try > 0 {
		use += "-" + strconv.Itoa(try)
	}
	return binary.BigEndian.Uint32(s.derive(use, name))
}

// VersionsKey is what several controllers name the versions of secrets with, so that
// whichever of them leads the swarm knows those that another made: 32 bytes, derived
// from the cluster's secret and of no other use. It is as secret as a controller's own
// key.
func (s *Store) VersionsKey() []byte { return s.derive("versions of secrets", "") }

// derive makes 32 bytes for one use and one target out of the secret.
func (s *Store) derive(use, name string) []byte {
	mac := hmac.New(sha256.New, s.root.Secret)
	mac.Write([]byte(use + "\x00" + name))
	return mac.Sum(nil)
}
