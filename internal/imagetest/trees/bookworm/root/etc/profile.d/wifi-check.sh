# Says at log-in that the radio is blocked until a country is set.
if [ -x /usr/sbin/rfkill ] && /usr/sbin/rfkill list wifi | grep -q 'Soft blocked: yes' &&
    ! grep -sq 'cfg80211\.ieee80211_regdom=' /boot/firmware/cmdline.txt; then
    echo 'Wi-Fi is currently blocked by rfkill.'
fi
