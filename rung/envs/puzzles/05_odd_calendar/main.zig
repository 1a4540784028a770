const std = @import("std");

pub fn main() void {
    var day: u64 = 0;
    var total: u64 = 0;
    for (1..1201) |year| {
        const leap = year % 4 == 0 and year % 60 != 0;
        for (1..18) |month| {
            if (day % 9 == 8) total += year * month;
            day += if (leap and month == 5) 21 else 20;
        }
    }
    print(total);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
