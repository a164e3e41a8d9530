//! strftime for the C locale, enough for what chat templates print.

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

struct Moment {
    year: i64,
    month: usize,
    day: i64,
    day_of_year: i64,
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
}

/// SOURCE: the proleptic Gregorian calendar counted from 1 March, so that leap days come last.
fn moment(local_s: i64) -> Moment {
    let days = local_s.div_euclid(86_400);
    let second_of_day = local_s.rem_euclid(86_400);
    let from_march_0000 = days + 719_468;
    let era = from_march_0000.div_euclid(146_097);
    let day_of_era = from_march_0000.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_march_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_march_year + 2) / 153;
    let day = day_of_march_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12;
    let year = era * 400 + year_of_era + i64::from(month < 2);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize];
    Moment {
        year,
        month: month as usize,
        day,
        day_of_year: before + day + i64::from(leap && month > 1),
        weekday: (days + 4).rem_euclid(7) as usize,
        hour: second_of_day / 3600,
        minute: second_of_day / 60 % 60,
        second: second_of_day % 60,
    }
}

pub fn format(format: &str, local_s: i64) -> Result<String, String> {
    // 9999 ends what Python's datetime can hold.
    if !(-62_135_596_800..253_402_300_800).contains(&local_s) {
        return Err("strftime_now: the clock is out of range".to_string());
    }
    let m = moment(local_s);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let number = |value: i64, width: usize| {
            if padded {
                format!("{value:0width$}")
            } else {
                value.to_string()
            }
        };
        let hour12 = (m.hour + 11) % 12 + 1;
        match directive {
            Some('Y') => out.push_str(&m.year.to_string()),
            Some('y') => out.push_str(&number(m.year.rem_euclid(100), 2)),
            Some('m') => out.push_str(&number(m.month as i64 + 1, 2)),
            Some('d') => out.push_str(&number(m.day, 2)),
            Some('e') => out.push_str(&format!("{:>2}", m.day)),
            Some('j') => out.push_str(&number(m.day_of_year, 3)),
            Some('H') => out.push_str(&number(m.hour, 2)),
            Some('I') => out.push_str(&number(hour12, 2)),
            Some('M') => out.push_str(&number(m.minute, 2)),
            Some('S') => out.push_str(&number(m.second, 2)),
            Some('p') => out.push_str(if m.hour < 12 { "AM" } else { "PM" }),
            Some('B') => out.push_str(MONTHS[m.month]),
            Some('b' | 'h') => out.push_str(&MONTHS[m.month][..3]),
            Some('A') => out.push_str(DAYS[m.weekday]),
            Some('a') => out.push_str(&DAYS[m.weekday][..3]),
            Some('w') => out.push_str(&m.weekday.to_string()),
            Some('F') => out.push_str(&format!("{}-{:02}-{:02}", m.year, m.month + 1, m.day)),
            Some('T') => out.push_str(&format!("{:02}:{:02}:{:02}", m.hour, m.minute, m.second)),
            Some('R') => out.push_str(&format!("{:02}:{:02}", m.hour, m.minute)),
            // A naive datetime has no zone.
            Some('Z' | 'z') => {}
            Some('%') => out.push('%'),
            Some(other) => return Err(format!("strftime_now: unknown directive %{other}")),
            None => out.push('%'),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::format;

    #[test]
    fn known_days() {
        assert_eq!(format("%d %b %Y %A %j", 0).unwrap(), "01 Jan 1970 Thursday 001");
        assert_eq!(format("%F %T %I%p", 951_782_399).unwrap(), "2000-02-28 23:59:59 11PM");
        assert_eq!(format("%F %a %j", 951_782_400).unwrap(), "2000-02-29 Tue 060");
        assert_eq!(format("%-d %B %y %%", 1_735_689_599).unwrap(), "31 December 24 %");
    }
}
