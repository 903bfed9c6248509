//! The power source, from the kernel's power supply class.

use std::path::Path;

use crate::host::seam::Power;

/// Reads `type` and `online` of every supply (Documentation/ABI/testing/sysfs-class-power), and the platform profile
/// (…/sysfs-platform_profile). Batteries of mice and pens have the scope "Device" and do not count.
pub(super) fn reading(class: &Path, profile: &Path) -> Power {
    let text = |path: &Path| fs_err::read_to_string(path).map(|text| text.trim().to_owned()).ok();
    let entries = fs_err::read_dir(class).ok().into_iter().flatten().filter_map(Result::ok);
    let (mut mains, mut battery) = (None, false);
    for supply in entries.map(|entry| entry.path()) {
        if text(&supply.join("scope")).as_deref() == Some("Device") {
            continue;
        }
        match text(&supply.join("type")).as_deref() {
            Some("Battery") => battery = true,
            Some("Mains" | "USB") => {
                let online = text(&supply.join("online")).as_deref() == Some("1");
                mains = Some(mains.unwrap_or(false) || online);
            }
            _ => {}
        }
    }
    Power {
        on_battery: match (battery, mains) {
            (true, mains) => mains.map(|online| !online),
            // A machine without a battery runs on its adapter, even if that is not listed.
            (false, _) => class.is_dir().then_some(false),
        },
        low_power: text(profile).map(|profile| profile == "low-power"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supply(class: &Path, name: &str, files: &[(&str, &str)]) {
        fs_err::create_dir_all(class.join(name)).unwrap();
        for (file, text) in files {
            fs_err::write(class.join(name).join(file), format!("{text}\n")).unwrap();
        }
    }

    #[test]
    fn a_laptop_runs_on_its_battery_when_no_adapter_is_online() {
        let folder = tempfile::tempdir().unwrap();
        let class = folder.path().join("class");
        let profile = folder.path().join("profile");
        assert_eq!(reading(&class, &profile), Power::default());
        supply(&class, "mouse", &[("type", "Battery"), ("scope", "Device")]);
        assert_eq!(reading(&class, &profile).on_battery, Some(false));
        supply(&class, "BAT0", &[("type", "Battery"), ("scope", "System")]);
        assert_eq!(reading(&class, &profile).on_battery, None, "no adapter says anything");
        supply(&class, "AC", &[("type", "Mains"), ("online", "0")]);
        assert_eq!(reading(&class, &profile).on_battery, Some(true));
        supply(&class, "usb", &[("type", "USB"), ("online", "1")]);
        fs_err::write(&profile, "low-power\n").unwrap();
        assert_eq!(reading(&class, &profile), Power { on_battery: Some(false), low_power: Some(true) });
    }
}
