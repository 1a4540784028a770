const std = @import("std");

// Twice the area by the shoelace formula, its two signs kept apart so that all numbers stay positive.
pub fn main() void {
    var total: u64 = 0;
    for (0..100) |p| {
        for (p + 1..100) |q| {
            for (q + 1..100) |r| {
                const plus = (p / 10) * (q % 10) + (q / 10) * (r % 10) + (r / 10) * (p % 10);
                const minus = (p % 10) * (q / 10) + (q % 10) * (r / 10) + (r % 10) * (p / 10);
                if (plus == minus + 12 or minus == plus + 12) total += 1;
            }
        }
    }
    print(total);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
