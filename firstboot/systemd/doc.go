// Package systemd is what the agent has to do with the service manager: units
// that it starts and stops over D-Bus, what it notifies (sd_notify(3)) and
// the journal's fields.
package systemd
