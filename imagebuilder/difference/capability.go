package difference

import (
	"encoding/binary"
	"fmt"
	"strings"
)

const capabilityXattr = "security.capability"

// capabilityNames are the kernel's, by number (linux/capability.h).
var capabilityNames = strings.Fields(`chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap
	linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio
	sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease
	audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon
	bpf checkpoint_restore`)

// capabilities shows a security.capability attribute as getcap does:
// "cap_net_raw=ep". It says no to what it does not know. The format is struct
// vfs_ns_cap_data of linux/capability.h: a revision with a flag for
// "effective", then two pairs of words, permitted and inheritable, little
// endian; revision 3 has the user that is root, too.
func capabilities(raw []byte) (string, bool) {
	const revision2, revision3, effective = 0x02000000, 0x03000000, 1
	if len(raw) != 20 && len(raw) != 24 {
		return "", false
	}
	word := func(i int) uint64 { return uint64(binary.LittleEndian.Uint32(raw[4*i:])) }
	magic := word(0)
	if revision := magic &^ effective; !(revision == revision2 && len(raw) == 20 || revision == revision3 && len(raw) == 24) {
		return "", false
	}
	permitted, inheritable := word(1)|word(3)<<32, word(2)|word(4)<<32
	var order []string
	by := map[string][]string{}
	for i := range 64 {
		flags := ""
		if magic&effective != 0 && (permitted|inheritable)>>i&1 != 0 {
			flags = "e"
		}
		if inheritable>>i&1 != 0 {
			flags += "i"
		}
		if permitted>>i&1 != 0 {
			flags += "p"
		}
		if flags == "" || flags == "e" {
			continue
		}
		name := fmt.Sprint(i)
		if i < len(capabilityNames) {
			name = "cap_" + capabilityNames[i]
		}
		if by[flags] == nil {
			order = append(order, flags)
		}
		by[flags] = append(by[flags], name)
	}
	var parts []string
	for _, flags := range order {
		parts = append(parts, strings.Join(by[flags], ",")+"="+flags)
	}
	if len(parts) == 0 {
		parts = append(parts, "=")
	}
	text := strings.Join(parts, " ")
	if len(raw) == 24 && word(5) != 0 {
		text += fmt.Sprintf(" [rootid=%d]", word(5))
	}
	return text, true
}
