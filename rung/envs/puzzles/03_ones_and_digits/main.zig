const std = @import("std");

fn digits(n: u64) u64 {
    return if (n == 0) 0 else n % 10 + digits(n / 10);
}

pub fn main() void {
    var total: u64 = 0;
    for (1..200001) |n| {
        if (@popCount(n) == digits(n)) total += n;
    }
    print(total);
}

fn print(number: u64) void {
    var text: [32]u8 = undefined;
    const line = std.fmt.bufPrint(&text, "{d}\n", .{number}) catch unreachable;
    _ = std.os.linux.write(1, line.ptr, line.len);
}
